package server

import (
	"crypto/rand"
	"flag"
	"fmt"
	"io"
	"os"

	"ashlar.dev/blockd/chunk"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// formatIfEmpty formats a store's folder that has nothing in it, or what a format that
// was cut off has left.
func (s *server) formatIfEmpty(c Store) error {
	if err := os.MkdirAll(c.Path, 0o700); err != nil {
		return fmt.Errorf("make store folder: %w", err)
	}
	entries, err := os.ReadDir(c.Path)
	if err != nil {
		return fmt.Errorf("look into store folder: %w", err)
	}
	for _, e := range entries {
		switch e.Name() {
		case "LOCK", "log", "index", "extents": // of a format that was cut off
		default:
			return nil // a store, or something else: opening it says which
		}
	}
	ident, err := Format(s.clock, c.Path, c.Size)
	if err != nil {
		return err
	}
	s.log.Info("store formatted", "store", ident.ID.String(), "path", c.Path)
	return nil
}

// smallStore is the size up to which a store gets a small journal log.
const smallStore = 64 << 30

// storeSizeMin: the journal's log takes 384 MiB of it.
const storeSizeMin = 512 * config.MiB

// Format makes an empty store in dir, of the given size or all that its disk has.
func Format(c clock.Clock, dir string, size config.ByteSize) (chunk.Identity, error) {
	if size != 0 && size < storeSizeMin {
		return chunk.Identity{}, fmt.Errorf("a store of %s: want at least %s: %w", size, storeSizeMin, errs.ErrInvalid)
	}
	raw, err := id.NewRaw(c.Wall(), rand.Reader)
	if err != nil {
		return chunk.Identity{}, fmt.Errorf("format store %s: %w", dir, err)
	}
	o := chunk.FormatOptions{ID: id.Store(raw), CapacityBytes: size.Int64()}
	if _, err := rand.Read(o.Incarnation[:]); err != nil {
		return chunk.Identity{}, fmt.Errorf("format store %s: %w", dir, err)
	}
	if size != 0 && size <= smallStore {
		o.LogFileBytes, o.LogFilesMax = 32<<20, 12
	}
	ident, err := chunk.Format(dir, o)
	if err == nil {
		err = os.Chmod(dir, 0o700) // it may have been there, as a mount is
	}
	if err != nil {
		return chunk.Identity{}, fmt.Errorf("format store %s: %w", dir, err)
	}
	return ident, nil
}

// FormatStore is the command "blockd store format DIR": it formats an empty folder as a
// store and prints the store's id.
func FormatStore(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("blockd store format", flag.ContinueOnError)
	flags.SetOutput(out)
	size := flags.String("size", "0", "`BYTES` the store may use, such as 500GiB; 0: what its disk has")
	flags.Usage = func() {
		fmt.Fprintln(out, "usage: blockd store format [--size 500GiB] DIR\n\nMakes an empty store in DIR, which must be empty, and prints its id.")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		flags.Usage()
		return fmt.Errorf("say which folder: %w", errs.ErrInvalid)
	}
	n, err := config.ParseByteSize(*size)
	if err != nil {
		return err
	}
	ident, err := Format(clock.System, flags.Arg(0), n)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, ident.ID)
	return err
}
