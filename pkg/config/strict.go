package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"ashlar.dev/pkg/errs"
)

// Key is the YAML key of a field, and whether its struct's keys stand in the parent's place.
func Key(f reflect.StructField) (name string, inline bool) {
	tag := f.Tag.Get("yaml")
	name, opts, _ := strings.Cut(tag, ",")
	if name == "" {
		name = strings.ToLower(f.Name)
	}
	return name, slices.Contains(strings.Split(opts, ","), "inline")
}

// unknownKeys walks the document beside the type. yaml's own strict mode would do, but
// its message names Go types; people want the line, the key and what they may write.
func unknownKeys(n *yaml.Node, t reflect.Type, path string) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch n.Kind {
	case yaml.DocumentNode:
		return unknownKeys(n.Content[0], t, path)
	case yaml.AliasNode, yaml.ScalarNode:
		if n.Kind == yaml.AliasNode {
			return fmt.Errorf("line %d: aliases are not allowed: %w", n.Line, errs.ErrInvalid)
		}
		return nil
	case yaml.SequenceNode:
		if t.Kind() != reflect.Slice {
			return nil // the decoder says what it wanted
		}
		for i, item := range n.Content {
			if err := unknownKeys(item, t.Elem(), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
		return nil
	}
	return unknownInMapping(n, t, path)
}

func unknownInMapping(n *yaml.Node, t reflect.Type, path string) error {
	if t.Kind() == reflect.Map {
		for i := 1; i < len(n.Content); i += 2 {
			if err := unknownKeys(n.Content[i], t.Elem(), join(path, n.Content[i-1].Value)); err != nil {
				return err
			}
		}
		return nil
	}
	if t.Kind() != reflect.Struct || reflect.PointerTo(t).Implements(reflect.TypeFor[yaml.Unmarshaler]()) {
		return nil
	}
	known := keysOf(t)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		sub, ok := known[key.Value]
		if !ok {
			return unknownKey(key, path, known)
		}
		if err := unknownKeys(n.Content[i+1], sub, join(path, key.Value)); err != nil {
			return err
		}
	}
	return nil
}

func unknownKey(key *yaml.Node, path string, known map[string]reflect.Type) error {
	names := make([]string, 0, len(known))
	for name := range known {
		names = append(names, name)
	}
	slices.Sort(names)
	where := ""
	if path != "" {
		where = " in " + path
	}
	return fmt.Errorf("line %d: unknown key %.60q%s; known are %s: %w",
		key.Line, key.Value, where, strings.Join(names, ", "), errs.ErrInvalid)
}

func keysOf(t reflect.Type) map[string]reflect.Type {
	out := make(map[string]reflect.Type)
	for i := range t.NumField() {
		f := t.Field(i)
		key, inline := Key(f)
		switch {
		case !f.IsExported() || key == "-":
		case inline && f.Type.Kind() == reflect.Struct:
			for k, sub := range keysOf(f.Type) {
				out[k] = sub
			}
		default:
			out[key] = f.Type
		}
	}
	return out
}
