// Package reference makes the documents of a Config from its source: a table of every
// key with its type, default and comment, and an example file. Tests and go generate
// use it; no daemon does, for it needs the source tree.
package reference

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"gopkg.in/yaml.v3"

	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
)

// modulePath is the prefix of our own packages, the ones whose source can be read.
const modulePath = "ashlar.dev"

// Markdown is a table of every key of cfg, a pointer to a struct holding the defaults
// (it is prepared first, complaints of Validate are left out). Every field needs a
// comment; one without is an error.
func Markdown(title string, cfg any) (string, error) {
	rows, err := rowsOf(cfg)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\nMade from the source by a test; edit the comments of the Config instead.\n\n", title)
	b.WriteString("| key | type | default | meaning |\n| --- | --- | --- | --- |\n")
	for _, r := range rows {
		if r.section {
			fmt.Fprintf(&b, "| `%s` | section |  | %s |\n", r.path, cell(r.comment))
			continue
		}
		value := ""
		if r.value != "" {
			value = "`" + r.value + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", r.path, r.kind, value, cell(r.comment))
	}
	return b.String(), nil
}

func cell(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", `\|`)
}

// Example is cfg as a YAML file with the comment of each field above its key.
func Example(head string, cfg any) (string, error) {
	var doc yaml.Node
	if err := doc.Encode(cfg); err != nil {
		return "", fmt.Errorf("encode example: %w", err)
	}
	c := commenter{sources: make(map[string]map[string]string)}
	if err := c.annotate(&doc, reflect.TypeOf(cfg), ""); err != nil {
		return "", err
	}
	var buf bytes.Buffer
	for line := range strings.Lines(strings.TrimSpace(head) + "\n") {
		buf.WriteString(strings.TrimRight("# "+line, " \n") + "\n")
	}
	buf.WriteByte('\n')
	enc := yaml.NewEncoder(&buf)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return "", fmt.Errorf("encode example: %w", err)
	}
	return buf.String(), enc.Close()
}

// Update is what a test's -update flag does, and Check what it does without: it tells
// whether the file at path says want.
func Update(path, want string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("update reference: %w", err)
	}
	return config.WriteFile(path, []byte(want), 0o644)
}

// Check compares the file with want and says how to mend it.
func Check(path, want string) error {
	got, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%w (run make generate)", err)
	}
	if string(got) != want {
		return fmt.Errorf("%s is not in step with the Config it documents (run make generate)", path)
	}
	return nil
}

type row struct {
	path, kind, value, comment string
	section                    bool
}

func rowsOf(cfg any) ([]row, error) {
	v := reflect.ValueOf(cfg)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("reference of %T: want a pointer to a struct: %w", cfg, errs.ErrInvalid)
	}
	// The error is dropped: only the defaults are wanted, an empty config need not be a valid one.
	_ = config.Prepare(cfg)
	c := commenter{sources: make(map[string]map[string]string)}
	return c.rows(v.Elem(), "")
}

// commenter reads comments of fields, each package once.
type commenter struct {
	sources map[string]map[string]string // package path → "Type.Field" → comment
}

func (c *commenter) rows(v reflect.Value, prefix string) ([]row, error) {
	var out []row
	for i := range v.NumField() {
		f := v.Type().Field(i)
		key, inline := config.Key(f)
		if !f.IsExported() || key == "-" {
			continue
		}
		if inline {
			sub, err := c.rows(v.Field(i), prefix)
			if err != nil {
				return nil, err
			}
			out = append(out, sub...)
			continue
		}
		comment, err := c.comment(v.Type(), f)
		if err != nil {
			return nil, err
		}
		r := row{path: prefix + key, kind: kindOf(f.Type), comment: comment}
		section, repeated := sectionOf(f.Type)
		if section == nil {
			r.value = valueOf(v.Field(i))
			out = append(out, r)
			continue
		}
		r.section = true
		item := v.Field(i)
		if repeated || item.Kind() == reflect.Pointer {
			fresh := reflect.New(section)
			_ = config.Prepare(fresh.Interface()) // only its defaults are wanted
			item = fresh.Elem()
		}
		if repeated {
			r.path += "[]"
		}
		sub, err := c.rows(item, r.path+".")
		if err != nil {
			return nil, err
		}
		out = append(append(out, r), sub...)
	}
	return out, nil
}

// sectionOf is the struct under t whose keys are listed one by one, or nil for a plain value.
func sectionOf(t reflect.Type) (section reflect.Type, repeated bool) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Slice {
		t, repeated = t.Elem(), true
	}
	if t.Kind() != reflect.Struct || reflect.PointerTo(t).Implements(reflect.TypeFor[yaml.Unmarshaler]()) {
		return nil, false
	}
	return t, repeated
}

func kindOf(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[config.ByteSize]():
		return "size"
	case reflect.TypeFor[config.Duration]():
		return "duration"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return kindOf(t.Elem())
	case reflect.Slice:
		return "list of " + kindOf(t.Elem())
	case reflect.Map:
		return "map of " + kindOf(t.Elem())
	case reflect.Bool:
		return "yes or no"
	case reflect.String:
		return "text"
	case reflect.Struct:
		return "section"
	default:
		return "number"
	}
}

func valueOf(v reflect.Value) string {
	if v.Kind() == reflect.Pointer && v.IsNil() || v.IsZero() && v.Kind() != reflect.Bool {
		return ""
	}
	out, err := yaml.Marshal(v.Interface())
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func (c *commenter) annotate(n *yaml.Node, t reflect.Type, prefix string) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case n.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		for i, item := range n.Content {
			if i > 0 {
				break // the comments stand at the first of a list
			}
			if err := c.annotate(item, t.Elem(), prefix); err != nil {
				return err
			}
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Struct:
		return c.annotateFields(n, t, prefix)
	}
	return nil
}

func (c *commenter) annotateFields(n *yaml.Node, t reflect.Type, prefix string) error {
	for i := range t.NumField() {
		f := t.Field(i)
		key, inline := config.Key(f)
		if inline {
			if err := c.annotateFields(n, f.Type, prefix); err != nil {
				return err
			}
			continue
		}
		for j := 0; j+1 < len(n.Content); j += 2 {
			if n.Content[j].Value != key {
				continue
			}
			comment, err := c.comment(t, f)
			if err != nil {
				return err
			}
			n.Content[j].HeadComment = comment
			if err := c.annotate(n.Content[j+1], f.Type, prefix+key+"."); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *commenter) comment(t reflect.Type, f reflect.StructField) (string, error) {
	pkg := t.PkgPath()
	if c.sources[pkg] == nil {
		comments, err := readComments(pkg)
		if err != nil {
			return "", err
		}
		c.sources[pkg] = comments
	}
	text := c.sources[pkg][t.Name()+"."+f.Name]
	if text == "" {
		return "", fmt.Errorf("%s.%s.%s has no comment: a setting nobody can read about: %w", pkg, t.Name(), f.Name, errs.ErrInvalid)
	}
	return text, nil
}

// readComments parses the package's source, tests included, for Config types of tests.
func readComments(pkg string) (map[string]string, error) {
	root, err := ModuleRoot()
	if err != nil {
		return nil, err
	}
	rel, ok := strings.CutPrefix(pkg, modulePath)
	if !ok {
		return nil, fmt.Errorf("config type of foreign package %s: %w", pkg, errs.ErrInvalid)
	}
	files, err := filepath.Glob(filepath.Join(root, strings.TrimSuffix(rel, "_test"), "*.go"))
	if err != nil {
		return nil, err
	}
	out := make(map[string]string)
	fset := token.NewFileSet()
	for _, name := range files {
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("read comments: %w", err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if st, ok := spec.Type.(*ast.StructType); ok {
					collect(out, spec.Name.Name, st)
				}
			}
			return true
		})
	}
	return out, nil
}

func collect(out map[string]string, typeName string, st *ast.StructType) {
	for _, f := range st.Fields.List {
		text := f.Doc.Text()
		if text == "" {
			text = f.Comment.Text()
		}
		for _, name := range f.Names {
			out[typeName+"."+name.Name] = strings.TrimSpace(text)
		}
	}
}

// ModuleRoot is the folder of go.mod at or above the working folder.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find module root: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("find module root: no go.mod above the working folder: %w", errs.ErrNotFound)
		}
		dir = up
	}
}
