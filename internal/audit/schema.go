package audit

import _ "embed"

// Schema is the JSON Schema of a record, as it is in the log and as a reader
// sees it.
//
//go:embed schema.json
var Schema []byte
