"""The HTTPS front: fal's protocol, the admin interface, authentication, dispatch to runners."""
