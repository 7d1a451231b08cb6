package policy

//lint:file-ignore SA1019 goyaml.v3 is the part of sigs.k8s.io/yaml that knows on which line a value stands.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	yaml "sigs.k8s.io/yaml/goyaml.v3"
)

// node is a YAML value with its line.
type node = yaml.Node

// maxEntries bounds every list of an object.
const maxEntries = 1000

// documents calls found for each YAML document of data that is not empty.
//
// Errors: the decoder's, or its panic, with the line where it gave up.
func documents(data []byte, found func(root *node)) (line int, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("is not YAML: %v", r)
		}
	}()
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var document node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return 0, nil
		}
		if err != nil {
			return yamlError(err)
		}
		if document.Kind != yaml.DocumentNode || len(document.Content) != 1 || isNothing(document.Content[0]) {
			continue
		}
		found(document.Content[0])
	}
}

// yamlError splits "yaml: line 7: text".
//
// Source: go.yaml.in/yaml/v3, decode.go, parser.fail: lines that its parser reports
// count from 0, those of its scanner from 1.
func yamlError(err error) (line int, rest error) {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	if after, ok := strings.CutPrefix(message, "line "); ok {
		number, text, _ := strings.Cut(after, ": ")
		if n, err := strconv.Atoi(number); err == nil {
			line, message = n, text
		}
	}
	switch strings.TrimPrefix(message, "did not find expected ") {
	case "node content", "key", "'-' indicator", "',' or ']'", "',' or '}'", "<document start>":
		line++
	}
	return line, fmt.Errorf("is not YAML: %s", message)
}

// isNothing tells the node of an absent value: an empty document, "key:", "~", "null".
func isNothing(n *node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// scalar reads the text of a key of a mapping without judging it.
func scalar(mapping *node, key string) (text string, value *node) {
	for i := 0; mapping.Kind == yaml.MappingNode && i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1].Value, mapping.Content[i+1]
		}
	}
	return "", &node{Line: mapping.Line}
}

// decode fills target from a node and reports whatever of the node does not fit it.
//
// Shape: target is addressable; it is left as it is where the node does not fit.
func (d *document) decode(n *node, path string, target reflect.Value) {
	d.lines[path] = n.Line
	switch target.Interface().(type) {
	case TargetStatus, AccessPolicyStatus, IssuerStatus:
		if !d.live {
			d.malformed(path, ofTheCluster)
		}
		return
	}
	switch {
	case n.Kind == yaml.AliasNode:
		d.malformed(path, "is an alias; write the value out, aliases are not read")
		return
	case n.Anchor != "":
		d.malformed(path, "has an anchor; take it away, aliases are not read")
		return
	case n.Style&yaml.TaggedStyle != 0:
		d.malformed(path, "has a tag; write the plain value, tags are not read")
		return
	}
	if _, isMask := target.Interface().(Mask); isMask && isNothing(n) && n.Value == "null" {
		target.SetString(string(Null)) // YAML reads the word null as nothing
		return
	}
	if isNothing(n) {
		d.malformed(path, "has no value; give it one or take the key away")
		return
	}
	switch target.Kind() {
	case reflect.Pointer:
		target.Set(reflect.New(target.Type().Elem()))
		d.decode(n, path, target.Elem())
	case reflect.Struct:
		if meta, ok := target.Addr().Interface().(*metav1.ObjectMeta); ok {
			d.decodeMetadata(n, path, meta)
			return
		}
		d.decodeStruct(n, path, target)
	case reflect.Map:
		d.decodeMap(n, path, target)
	case reflect.Slice:
		d.decodeList(n, path, target)
	case reflect.String:
		d.decodeText(n, path, target)
	case reflect.Int:
		number, err := strconv.Atoi(n.Value)
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || err != nil {
			d.malformed(path, "is %s; want a whole number", describe(n))
			return
		}
		target.SetInt(int64(number))
	case reflect.Bool:
		if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
			d.malformed(path, "is %s; want true or false", describe(n))
			return
		}
		target.SetBool(strings.EqualFold(n.Value, "true"))
	}
}

func (d *document) decodeStruct(n *node, path string, target reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.malformed(path, "is %s; want a mapping with %s", describe(n), list(fieldNames(target.Type())))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0 {
			d.wrong(path, "has a key on line %d that is not plain text; write a field's name", key.Line)
			continue
		}
		at := join(path, clip(key.Value))
		if first, again := seen[key.Value]; again {
			d.wrong(at, "is given again on line %d, the first time is line %d; keep one", key.Line, first)
			continue
		}
		seen[key.Value] = key.Line
		field, planned := fieldOf(target.Type(), key.Value)
		if field == nil {
			d.lines[at] = key.Line
			if planned {
				d.malformed(at, "is not built yet; take it away")
			} else {
				d.malformed(at, "is not a field here; the fields are %s", strings.Join(fieldNames(target.Type()), ", "))
			}
			continue
		}
		d.decode(value, at, target.FieldByIndex(field))
		d.lines[at] = key.Line
	}
}

func (d *document) decodeList(n *node, path string, target reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.malformed(path, "is %s; want a list: [ … ]", describe(n))
		return
	}
	if len(n.Content) == 0 {
		d.malformed(path, "is an empty list; name something or take the key away")
		return
	}
	if len(n.Content) > maxEntries {
		d.malformed(path, "has %d entries; at most %d are read", len(n.Content), maxEntries)
		return
	}
	target.Set(reflect.MakeSlice(target.Type(), len(n.Content), len(n.Content)))
	for i, entry := range n.Content {
		d.decode(entry, fmt.Sprintf("%s[%d]", path, i), target.Index(i))
	}
}

// decodeMap reads a mapping of text to text, which may be empty text.
func (d *document) decodeMap(n *node, path string, target reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.malformed(path, "is %s; want a mapping of text to text", describe(n))
		return
	}
	if len(n.Content) == 0 || len(n.Content) > 2*maxEntries {
		d.malformed(path, "has %d entries; want 1 to %d, or take the key away", len(n.Content)/2, maxEntries)
		return
	}
	read := make(map[string]string, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := join(path, clip(key.Value))
		if _, again := read[key.Value]; again {
			d.malformed(path, "has %q twice; keep one", clip(key.Value))
			return
		}
		plain := key.Kind == yaml.ScalarNode && key.Anchor == "" && value.Anchor == "" && (key.Style|value.Style)&yaml.TaggedStyle == 0
		if !plain || key.Tag != "!!str" || value.Kind != yaml.ScalarNode || value.Tag != "!!str" {
			d.lines[at] = key.Line
			d.malformed(at, "is %s; want text for text, put both in quotes", describe(value))
			continue
		}
		read[key.Value] = value.Value
	}
	target.Set(reflect.ValueOf(read))
}

func (d *document) decodeText(n *node, path string, target reflect.Value) {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		d.malformed(path, "is %s; want text, put it in quotes", describe(n))
		return
	}
	if strings.TrimSpace(n.Value) == "" {
		d.malformed(path, "is empty; give it a value or take the key away")
		return
	}
	if c, ok := target.Interface().(choice); ok {
		built, planned := c.choices()
		if slices.Contains(planned, n.Value) {
			d.malformed(path, "%q is not built yet; want %s", n.Value, list(built))
			return
		}
		if !slices.Contains(built, n.Value) {
			d.malformed(path, "%q is not a choice; want %s", clip(n.Value), list(built))
			return
		}
	}
	target.SetString(n.Value)
}

// fieldOf finds a struct's field by its key: nil where there is none, planned where it is announced.
func fieldOf(t reflect.Type, key string) (field []int, planned bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		if isInline(f) {
			if inner, _ := fieldOf(f.Type, key); inner != nil {
				return append([]int{i}, inner...), false
			}
			continue
		}
		if keyOf(f) == key && key != "" {
			return f.Index, false
		}
		planned = planned || slices.Contains(strings.Fields(f.Tag.Get("planned")), key)
	}
	return nil, planned
}

// fieldNames lists the keys that a file may give.
func fieldNames(t reflect.Type) []string {
	if t == reflect.TypeFor[metav1.ObjectMeta]() {
		t = reflect.TypeFor[metadata]()
	}
	var names []string
	for field := range t.Fields() {
		if isInline(field) {
			names = append(names, fieldNames(field.Type)...)
		} else if key := keyOf(field); key != "" && key != "status" {
			names = append(names, key)
		}
	}
	return names
}

// isInline tells an embedded struct whose fields stand beside the others.
func isInline(f reflect.StructField) bool { return f.Anonymous && keyOf(f) == "" }

// keyOf gives the key of a field: "" where it has none.
func keyOf(f reflect.StructField) string {
	key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if key == "-" {
		return ""
	}
	return key
}

func describe(n *node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!int", n.Tag == "!!float":
		return "a number"
	case n.Tag == "!!bool":
		return "true or false"
	case n.Tag == "!!timestamp":
		return "a date"
	}
	return "text"
}

func join(path, key string) string {
	if strings.ContainsFunc(key, func(r rune) bool { return r < '!' || r == '.' || r == '[' || r > '~' }) {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}
