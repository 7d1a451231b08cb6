package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	yaml "sigs.k8s.io/yaml/goyaml.v3"
)

//lint:file-ignore SA1019 see decode.go.

// maxDepth bounds how deep the JSON of an object nests.
const maxDepth = 32

// parseJSON reads one JSON value into the nodes that the decoder of files reads,
// so that both have one set of rules. JSON is read as JSON: YAML takes most of
// it, but neither surrogate pairs nor some control characters.
func parseJSON(data []byte) (*node, error) {
	if len(data) > maxBytes {
		return nil, errors.New("has more than 1 MiB")
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	root, err := jsonNode(decoder, 0)
	if err != nil {
		return nil, fmt.Errorf("is not JSON: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("is not JSON: there is more behind the object")
	}
	return root, nil
}

func jsonNode(decoder *json.Decoder, depth int) (*node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("it nests deeper than %d levels", maxDepth)
	}
	token, err := decoder.Token()
	if err != nil {
		return nil, err
	}
	switch token := token.(type) {
	case json.Delim:
		n := &node{Kind: yaml.MappingNode, Tag: "!!map"}
		if token == '[' {
			n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		}
		for decoder.More() {
			entry, err := jsonNode(decoder, depth+1) // a key, or an entry of a list, then its value
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, entry)
		}
		_, err := decoder.Token()
		return n, err
	case string:
		return &node{Kind: yaml.ScalarNode, Tag: "!!str", Value: token}, nil
	case json.Number:
		tag := "!!float"
		if _, err := token.Int64(); err == nil {
			tag = "!!int"
		}
		return &node{Kind: yaml.ScalarNode, Tag: tag, Value: token.String()}, nil
	case bool:
		return &node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(token)}, nil
	}
	return &node{Kind: yaml.ScalarNode, Tag: "!!null"}, nil
}
