package warm

import _ "embed"

// Schema is the JSON Schema of a Config's file.
//
//go:embed schema.json
var Schema string
