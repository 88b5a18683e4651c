from .endpoint import OpenAICompatible as OpenAICompatible
from .judge import Answer as Answer
from .judge import Judge as Judge
from .judge import Message as Message
from .judge import Request as Request
from .local import LocalModel as LocalModel
