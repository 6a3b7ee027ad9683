// Starts Swagger UI. A file of its own, because the page's policy allows no script inside the HTML.
"use strict";

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null, // the default sends the description to a public validator
  presets: [SwaggerUIBundle.presets.apis],
});
