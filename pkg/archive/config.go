package archive

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/objectstore"
)

// Config says where an archive is and how it is encrypted.
type Config struct {
	// Store is the directory or bucket.
	Store objectstore.Config `yaml:"store"`
	// KeyFile has the key for encryption, 64 hexadecimal digits; readable by its owner only. What is lost with it cannot be read again.
	KeyFile string `yaml:"key_file"`
	// KeyCommand is a program and its arguments that prints the key, instead of a file: 64 hexadecimal digits, within 30 seconds, each time the
	// daemon starts. So the key can be in a KMS or a vault.
	KeyCommand []string `yaml:"key_command"`
}

// Validate is part of package config.
func (c *Config) Validate() error {
	if c.KeyFile != "" && len(c.KeyCommand) > 0 {
		return fmt.Errorf("key_file and key_command: name one of both: %w", errs.ErrInvalid)
	}
	return nil
}

// keyCommandMax bounds how long the command may take.
const keyCommandMax = 30 * time.Second

// keyWriter takes what a command prints, as long as that may be a key.
type keyWriter struct{ text []byte }

const keyTextMax = 4096

func (w *keyWriter) Write(p []byte) (int, error) {
	if len(w.text)+len(p) > keyTextMax {
		return 0, fmt.Errorf("it prints more than a key: %w", errs.ErrInvalid)
	}
	w.text = append(w.text, p...)
	return len(p), nil
}

// Secret reads the key, or has it printed; nil if there is none.
func (c *Config) Secret(ctx context.Context) (*Secret, error) {
	var text []byte
	var err error
	switch {
	case c.KeyFile != "":
		text, err = objectstore.ReadSecret(c.KeyFile)
	case len(c.KeyCommand) > 0:
		ctx, cancel := context.WithTimeout(ctx, keyCommandMax)
		defer cancel()
		cmd := exec.CommandContext(ctx, c.KeyCommand[0], c.KeyCommand[1:]...)
		var out keyWriter
		cmd.Stdout = &out           // what it says on stderr may be anything, a key too: it is not shown
		cmd.WaitDelay = time.Second // it may have started others, which have its output open
		err = cmd.Run()
		switch {
		case ctx.Err() != nil:
			err = fmt.Errorf("key command %s did not end in time, and was killed (it has %s): %w", c.KeyCommand[0], keyCommandMax, errs.ErrTimeout)
		case err != nil:
			err = fmt.Errorf("key command %s: %w: %w (what it says on stderr is not shown, it may be a key: run it by hand)", c.KeyCommand[0], errs.ErrUnavailable, err)
		}
		text = out.text
	default:
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("key of the archive: %w", err)
	}
	return ParseSecret(text)
}

// Open gives the store and the key that c names; it does not connect.
func (c *Config) Open(ctx context.Context, clk clock.Clock) (objectstore.Store, *Secret, error) {
	s, err := c.Secret(ctx)
	if err != nil {
		return nil, nil, err
	}
	store, err := objectstore.Open(c.Store, clk)
	return store, s, err
}
