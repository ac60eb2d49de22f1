"""A delta on a model: what may carry one (`targets`), the layers that compute with it, how it is switched (`attach`)."""
