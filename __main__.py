"""The Pulumi program: settings, the deployment made of them, and what the stack publishes."""

import pulumi

import settings
from components import LlamaDeployment, publish
from modal_app.errors import Failure

try:
    configuration = settings.read_stack()
    publish(LlamaDeployment("llama", configuration))
except settings.Problems as problems:
    raise pulumi.RunError("\n".join(["the configuration of this stack cannot be used:", *problems.lines])) from None
except Failure as failure:
    raise pulumi.RunError(str(failure)) from None
