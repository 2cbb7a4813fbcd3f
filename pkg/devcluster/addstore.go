package devcluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"gopkg.in/yaml.v3"

	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
)

// StorePlan is a store that was added to a blockd of ashlar dev.
type StorePlan struct {
	Path string          `yaml:"path"`
	Size config.ByteSize `yaml:"size"`
}

// BlockdFile finds the config file of the blockd that is meant: in a folder of ashlar dev the
// one of that name, in a folder of cluster init or host join the machine's own, which may be
// named too. given, if not empty, is the file itself.
func BlockdFile(dir, name, given string) (file string, cfg *BlockdConfig, err error) {
	if file = given; file == "" {
		f, err := LoadFile(dir)
		if err != nil && !errors.Is(err, errs.ErrNotFound) { // a storage host needs none
			return "", nil, err
		}
		if err == nil && f.Dev != nil {
			if name == "" {
				return "", nil, fmt.Errorf("which of %s in %s is meant is not said: %w", strings.Join(f.Dev.blockdNames(), ", "), dir, errs.ErrInvalid)
			}
			if !f.Dev.has(name) {
				return "", nil, fmt.Errorf("blockd %q: %s has %s: %w", name, dir, strings.Join(f.Dev.blockdNames(), ", "), errs.ErrNotFound)
			}
			file = layout{dir}.config(name)
		} else {
			file = filepath.Join(dir, "blockd.yaml")
		}
	}
	doc, err := readYAML(file)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil, fmt.Errorf("no %s: this machine is no storage host: %w", file, errs.ErrNotFound)
	}
	if err != nil {
		return "", nil, err
	}
	cfg = &BlockdConfig{}
	if err := doc.Decode(cfg); err != nil {
		return "", nil, fmt.Errorf("config %s: %w: %w", file, errs.ErrInvalid, err)
	}
	if name != "" && name != cfg.ID {
		return "", nil, fmt.Errorf("%s is of host %s, not %s: %w", file, cfg.ID, name, errs.ErrInvalid)
	}
	return file, cfg, nil
}

func (p *Plan) blockdNames() (out []string) {
	for _, b := range p.Blockds {
		out = append(out, b.ID)
	}
	return out
}

func (p *Plan) has(blockd string) bool {
	for _, b := range p.Blockds {
		if b.ID == blockd {
			return true
		}
	}
	return false
}

// AddStore puts a store that is formatted into a blockd's config file, whose other contents and
// comments stay, and into the plan of ashlar dev if dir is its folder: the file is made of that
// at every start. Durable when it returns; a reader sees the file with or without the store.
func AddStore(dir, file string, s StoreConfig) error {
	lock, err := os.Open(filepath.Dir(file))
	if err != nil {
		return fmt.Errorf("lock folder: %w", err)
	}
	defer lock.Close() // which unlocks
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock folder of %s: %w", file, err)
	}
	doc, err := readYAML(file)
	if err != nil {
		return err
	}
	var cfg BlockdConfig
	if err := doc.Decode(&cfg); err != nil {
		return fmt.Errorf("config %s: %w: %w", file, errs.ErrInvalid, err)
	}
	for _, x := range cfg.Stores {
		if filepath.Clean(x.Path) == filepath.Clean(s.Path) {
			return fmt.Errorf("%s has the store in %s already: %w", file, s.Path, errs.ErrExists)
		}
	}
	if err := appendStore(doc, s); err != nil {
		return fmt.Errorf("config %s: %w", file, err)
	}
	if err := addToPlan(dir, file, cfg.ID, s); err != nil {
		return err
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(doc), enc.Close()); err != nil {
		return fmt.Errorf("encode config %s: %w", file, err)
	}
	return config.WriteFile(file, b.Bytes(), 0o600)
}

func readYAML(file string) (*yaml.Node, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("config %s: %w: %w", file, errs.ErrInvalid, err)
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("config %s: want keys and values: %w", file, errs.ErrInvalid)
	}
	return &doc, nil
}

// appendStore adds an element to the list stores, which may be missing.
func appendStore(doc *yaml.Node, s StoreConfig) error {
	var item yaml.Node
	if err := item.Encode(s); err != nil {
		return fmt.Errorf("encode store: %w", err)
	}
	top := doc.Content[0]
	for i := 0; i+1 < len(top.Content); i += 2 {
		if top.Content[i].Value != "stores" {
			continue
		}
		switch list := top.Content[i+1]; {
		case list.Kind == yaml.SequenceNode:
			list.Style &^= yaml.FlowStyle // [] would go on in one line
			list.Content = append(list.Content, &item)
		case list.Tag == "!!null":
			*list = yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Content: []*yaml.Node{&item}}
		default:
			return fmt.Errorf("stores is no list: %w", errs.ErrInvalid)
		}
		return nil
	}
	top.Content = append(top.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "stores"},
		&yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Content: []*yaml.Node{&item}})
	return nil
}

// addToPlan comes before the config file: that one is what a repetition looks at.
func addToPlan(dir, file, blockd string, s StoreConfig) error {
	f, err := LoadFile(dir)
	if err != nil && !errors.Is(err, errs.ErrNotFound) {
		return err
	}
	if err != nil || f.Dev == nil || (layout{dir}).config(blockd) != file {
		return nil // no cluster of ashlar dev; its own file is what a blockd reads
	}
	for i := range f.Dev.Blockds {
		b := &f.Dev.Blockds[i]
		planned := false
		for _, x := range b.Added {
			planned = planned || x.Path == s.Path
		}
		if b.ID == blockd && !planned {
			b.Added = append(b.Added, StorePlan{Path: s.Path, Size: s.Size})
		}
	}
	return f.save(dir)
}

// ReloadBlockd has a blockd that runs with this state folder read its stores again; false: none
// does. It is found by the lock on that folder, so no other process is signalled.
func ReloadBlockd(data string) (bool, error) {
	path := filepath.Join(data, "LOCK")
	lock, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the running blockd: %w", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err == nil {
		return false, nil // nobody has it
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("look for the running blockd: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return false, fmt.Errorf("%s does not say who runs: it is a blockd of an earlier version; restart it: %w", path, errs.ErrUnavailable)
	}
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		return false, fmt.Errorf("signal blockd (process %d): %w", pid, err)
	}
	return true, nil
}
