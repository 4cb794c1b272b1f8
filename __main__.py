"""The Pulumi program: settings, the deployment made of them, and what the stack publishes."""

import pulumi

import settings
from components import LlamaDeployment, publish

try:
    configuration = settings.read_stack()
except settings.Problems as problems:
    raise pulumi.RunError("\n".join(["the configuration of this stack cannot be used:", *problems.lines])) from None

publish(LlamaDeployment(configuration.app_name, configuration))
