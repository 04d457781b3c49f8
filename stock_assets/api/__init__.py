"""The HTTP service: uploads, forecasts, runs; and the page that shows them."""
