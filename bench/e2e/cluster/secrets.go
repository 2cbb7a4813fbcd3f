package cluster

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"gopkg.in/yaml.v3"
)

// Secrets are texts that must stand nowhere but where they are kept; by text, what each is.
type Secrets map[string]string

// SecretsIn are those of a cluster in a folder of its keys and configs: private keys, line by line, and what the files have that
// configs name for the archive's credentials and its key.
func SecretsIn(dir string) (Secrets, error) {
	s := make(Secrets)
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || d.IsDir():
			return err
		case strings.HasSuffix(name, ".key"):
			return s.addFile(name, "a private key")
		case strings.HasSuffix(name, ".yaml"):
			return s.addNamed(name)
		}
		return nil
	})
	if err == nil && len(s) == 0 {
		err = errors.New("there are none")
	}
	if err != nil {
		return nil, fmt.Errorf("find secrets in %s: %w", dir, err)
	}
	return s, nil
}

// secretMin is the length of a text that is unlike all others.
const secretMin = 16

// addFile takes the lines of a file that are long enough; of one with names, what stands behind them.
func (s Secrets) addFile(name, what string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		key, value, named := strings.Cut(strings.TrimSpace(line), "=")
		switch {
		case strings.HasPrefix(line, "-----"):
		case named && strings.TrimSpace(key) == "secret_key":
			s[strings.TrimSpace(value)] = what
		case len(key) >= secretMin && !strings.Contains(key, " "):
			s[key] = what
		}
	}
	return nil
}

// addNamed takes what a daemon's config names.
func (s Secrets) addNamed(file string) error {
	var config struct {
		Archive struct {
			KeyFile string `yaml:"key_file"`
			Store   struct {
				S3 struct{ Credentials string }
			}
		}
	}
	text, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(text, &config)
	}
	if x := config.Archive.Store.S3.Credentials; err == nil && x != "" {
		err = s.addFile(x, "the archive's secret key")
	}
	if x := config.Archive.KeyFile; err == nil && x != "" {
		err = s.addFile(x, "what the archive is encrypted with")
	}
	return err
}

// Check complains about a text that has one of them.
func (s Secrets) Check(place string, text []byte) error {
	var all error
	for secret, what := range s {
		if bytes.Contains(text, []byte(secret)) {
			all = errors.Join(all, fmt.Errorf("%s shows %s", place, what))
		}
	}
	return all
}

// CheckFiles is Check of files.
func (s Secrets) CheckFiles(files ...string) error {
	var all error
	for _, name := range files {
		text, err := os.ReadFile(name)
		all = errors.Join(all, err, s.Check(name, text))
	}
	return all
}

// CheckBundle is Check of what ashlar debug bundle wrote.
func (s Secrets) CheckBundle(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	var all error
	for in, n := tar.NewReader(z), 0; ; n++ {
		h, err := in.Next()
		if errors.Is(err, io.EOF) && n > 0 {
			return all
		}
		if err != nil {
			return fmt.Errorf("read bundle: %w", err)
		}
		text, err := io.ReadAll(in)
		all = errors.Join(all, err, s.Check("the bundle's "+h.Name, text))
	}
}

// Hide adds a secret that the cluster's files do not tell, such as a token, to those that nothing may show.
func (c *Cluster) Hide(text, what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hidden == nil {
		c.hidden = make(Secrets)
	}
	c.hidden[text] = what
}

// secrets are all that the cluster has.
func (c *Cluster) secrets() (Secrets, error) {
	s := make(Secrets)
	for _, folder := range []string{"pki", "config"} {
		some, err := SecretsIn(filepath.Join(c.Dir, folder))
		if err != nil && folder == "pki" {
			return nil, err
		}
		for text, what := range some {
			s[text] = what
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for text, what := range c.hidden {
		s[text] = what
	}
	return s, nil
}

// CheckSecrets looks for the cluster's secrets in all that it tells while it runs, if it does, and in the logs.
func (c *Cluster) CheckSecrets() error {
	s, err := c.secrets()
	if err != nil {
		return err
	}
	all := s.Check("what ashlar dev said", []byte(c.Said()))
	logs, err := filepath.Glob(filepath.Join(c.Dir, "log", "*"))
	all = errors.Join(all, err, s.CheckFiles(logs...))
	for _, args := range [][]string{{"status", "-v"}, {"status", "-v", "-o", "json"}, {"events", "-n", "0", "-o", "json"}, {"disk", "list", "-o", "json"}} {
		r, err := c.CLI(args...)
		all = errors.Join(all, err, s.Check("ashlar "+strings.Join(args, " "), []byte(r.Stdout+r.Stderr)))
		if r.Code != 0 {
			return all // nothing of it runs any more
		}
	}
	bundle := filepath.Join(c.Dir, "bundle.tar.gz")
	if r, err := c.CLI("debug", "bundle", "--out", bundle); err != nil || r.Code != 0 {
		return errors.Join(all, err, fmt.Errorf("debug bundle: %s", r.Stderr))
	}
	return errors.Join(all, s.CheckBundle(bundle), os.Remove(bundle))
}
