"""The service and the page: faces are found and read over HTTP (``mien serve``)."""
