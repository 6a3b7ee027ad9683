"""Our REST face: connections, bodies, uploads, routes, pages and errors over HTTP."""
