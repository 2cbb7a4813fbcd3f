// Package config reads a daemon's one YAML file and nothing else: no environment, no
// merging, and no reloading but of blockd's list of stores. Keys that are not known are
// errors, because a setting that does nothing is a lie.
//
// A room's Config is a plain struct with yaml tags and a comment on every field (the
// reference is made from them, see pkg/config/reference). It may have
//
//	EnsureDefaults()    // fill what is zero; safe to repeat
//	Validate() error    // refuse what cannot work, naming the key
//
// Load calls both on the struct and on every struct inside it, so a section checks
// itself and the whole checks only what spans sections.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"

	"gopkg.in/yaml.v3"

	"ashlar.dev/pkg/errs"
)

// fileBytesMax bounds a config file; real ones are a few KiB.
const fileBytesMax = 1 << 20

// Load reads the file into cfg, a pointer to a struct, then calls Prepare.
// Errors name the file, and the line or key.
func Load(path string, cfg any) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open config: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, fileBytesMax+1))
	if err != nil {
		return fmt.Errorf("read config %s: %w", path, err)
	}
	if len(data) > fileBytesMax {
		return fmt.Errorf("config %s is over %s: %w", path, ByteSize(fileBytesMax), errs.ErrInvalid)
	}
	if err := Decode(data, cfg); err != nil {
		return fmt.Errorf("config %s: %w", path, err)
	}
	return nil
}

// Decode is Load of bytes.
func Decode(data []byte, cfg any) error {
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF): // an empty file is all defaults
		return Prepare(cfg)
	case err != nil:
		return fmt.Errorf("%w: %w", errs.ErrInvalid, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("more than one YAML document: %w", errs.ErrInvalid)
	}
	if err := unknownKeys(&doc, reflect.TypeOf(cfg), ""); err != nil {
		return err
	}
	if err := doc.Decode(cfg); err != nil {
		return fmt.Errorf("%w: %w", errs.ErrInvalid, err)
	}
	return Prepare(cfg)
}

// Prepare fills defaults and validates cfg and every struct inside it. All complaints
// are joined, each after the key it is about.
func Prepare(cfg any) error {
	v := reflect.ValueOf(cfg)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("prepare config: want a pointer to a struct, got %T: %w", cfg, errs.ErrInvalid)
	}
	ensureDefaults(v.Elem())
	return errors.Join(validate(v.Elem(), "")...)
}

type defaulter interface{ EnsureDefaults() }

type validator interface{ Validate() error }

// ensureDefaults goes from the outside in, so that the whole may decide for its parts.
func ensureDefaults(v reflect.Value) {
	if d, ok := v.Addr().Interface().(defaulter); ok {
		d.EnsureDefaults()
	}
	eachStruct(v, "", func(sub reflect.Value, _ string) { ensureDefaults(sub) })
}

// validate goes from the inside out, so that the whole may rely on its parts.
func validate(v reflect.Value, path string) []error {
	var all []error
	eachStruct(v, path, func(sub reflect.Value, subPath string) { all = append(all, validate(sub, subPath)...) })
	if c, ok := v.Addr().Interface().(validator); ok {
		if err := c.Validate(); err != nil {
			if path != "" {
				err = fmt.Errorf("%s: %w", path, err)
			}
			all = append(all, err)
		}
	}
	return all
}

// eachStruct visits the structs directly inside v: fields, pointers, elements of slices.
// Values of maps are not visited; a config that needs them validates them itself.
func eachStruct(v reflect.Value, path string, visit func(reflect.Value, string)) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if !field.IsExported() {
			continue
		}
		key, inline := Key(field)
		sub := path
		if !inline {
			sub = join(path, key)
		}
		f := v.Field(i)
		if f.Kind() == reflect.Pointer && !f.IsNil() {
			f = f.Elem()
		}
		switch {
		case f.Kind() == reflect.Struct:
			visit(f, sub)
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct:
			for j := range f.Len() {
				visit(f.Index(j), fmt.Sprintf("%s[%d]", sub, j))
			}
		}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// Write stores cfg as YAML under head, a comment that may be empty. It is durable when
// Write returns, and a reader sees the old file or the new one.
func Write(path string, head string, cfg any, mode os.FileMode) error {
	var buf bytes.Buffer
	buf.WriteString(head)
	enc := yaml.NewEncoder(&buf)
	enc.SetIndent(2)
	if err := enc.Encode(cfg); err != nil {
		return fmt.Errorf("encode config %s: %w", path, err)
	}
	if err := enc.Close(); err != nil {
		return fmt.Errorf("encode config %s: %w", path, err)
	}
	return WriteFile(path, buf.Bytes(), mode)
}

// WriteFile replaces the file whole: temporary file, fsync, rename, fsync of the folder.
func WriteFile(path string, data []byte, mode os.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			// What failed is reported already; these only tidy up after it.
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := f.Chmod(mode); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	return nil
}
