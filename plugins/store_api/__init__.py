"""The example application: a store's REST API over the models, and traffic for it."""
