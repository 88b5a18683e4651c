from .folder import publish as publish
from .identity import identity_of as identity_of
from .push import push as push
