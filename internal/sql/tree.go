package sql

import (
	"iter"
	"strconv"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// children gives the messages directly below m, in the order of its fields. Of a Node
// it gives the one that it holds, so that no field of a tree is ever left out.
func children(m protoreflect.Message) iter.Seq[protoreflect.Message] {
	return func(yield func(protoreflect.Message) bool) {
		if m.Descriptor().Name() == "Node" {
			if inner := content(m); inner != nil {
				yield(inner)
			}
			return
		}
		fields := m.Descriptor().Fields()
		for i := range fields.Len() {
			if !yieldField(m, fields.Get(i), yield) {
				return
			}
		}
	}
}

func yieldField(m protoreflect.Message, field protoreflect.FieldDescriptor, yield func(protoreflect.Message) bool) bool {
	if field.Kind() != protoreflect.MessageKind || !m.Has(field) {
		return true
	}
	if !field.IsList() {
		return yield(m.Get(field).Message())
	}
	list := m.Get(field).List()
	for i := range list.Len() {
		if !yield(list.Get(i).Message()) {
			return false
		}
	}
	return true
}

func itoa(i int32) string { return strconv.FormatInt(int64(i), 10) }
