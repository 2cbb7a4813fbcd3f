package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
)

// Limits of a bundle.
const (
	PieceTime     = 10 * time.Second
	PieceBytesMax = 8 << 20
	BytesMax      = 128 << 20 // of all pieces, before they are packed
)

// Piece is one file of a bundle.
type Piece struct {
	Name string
	// Get gives what is to be kept. It ends with ctx; what it gives beyond PieceBytesMax is cut off.
	Get func(ctx context.Context) (io.ReadCloser, error)
	// Binary is kept as it is; everything else goes through Redact.
	Binary bool
}

// Entry is one line of the manifest.
type Entry struct {
	Name    string `json:"name"`
	Bytes   int    `json:"bytes"`
	Cut     bool   `json:"cut,omitempty"`     // there was more
	Problem string `json:"problem,omitempty"` // why it is not there, or not whole
	Seconds string `json:"took"`
}

// Write gathers the pieces, in order, and packs them with a manifest as the last file.
func Write(ctx context.Context, c clock.Clock, w io.Writer, pieces []Piece) ([]Entry, error) {
	return write(ctx, c, w, pieces, PieceBytesMax)
}

func write(ctx context.Context, c clock.Clock, w io.Writer, pieces []Piece, pieceMax int) ([]Entry, error) {
	packed := gzip.NewWriter(w)
	files := tar.NewWriter(packed)
	var manifest []Entry
	total := 0
	for _, p := range pieces {
		start := c.Now()
		data, e := gather(ctx, p, min(pieceMax, BytesMax-total))
		e.Seconds = (c.Now() - start).Round(time.Millisecond).String()
		total += len(data)
		if len(data) > 0 {
			if err := add(files, p.Name, data, c.Wall()); err != nil {
				return manifest, err
			}
		}
		manifest = append(manifest, e)
	}
	list, err := json.MarshalIndent(manifest, "", "  ")
	if err != nil {
		return manifest, fmt.Errorf("encode manifest: %w", err)
	}
	if err := add(files, "manifest.json", append(list, '\n'), c.Wall()); err != nil {
		return manifest, err
	}
	if err := errors.Join(files.Close(), packed.Close()); err != nil {
		return manifest, fmt.Errorf("pack bundle: %w", err)
	}
	return manifest, nil
}

func add(files *tar.Writer, name string, data []byte, at time.Time) error {
	err := files.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data)), ModTime: at, Format: tar.FormatPAX})
	if err == nil {
		_, err = files.Write(data)
	}
	if err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	return nil
}

// gather gets one piece within its limits. A part of it is better than nothing.
func gather(ctx context.Context, p Piece, max int) ([]byte, Entry) {
	e := Entry{Name: p.Name}
	if max <= 0 {
		e.Problem = fmt.Sprintf("the bundle is full (%d bytes)", BytesMax)
		return nil, e
	}
	ctx, cancel := context.WithTimeout(ctx, PieceTime)
	defer cancel()
	from, err := p.Get(ctx)
	if err != nil {
		e.Problem = string(Redact([]byte(err.Error())))
		return nil, e
	}
	var b bytes.Buffer
	_, err = io.Copy(&b, io.LimitReader(from, int64(max)+1))
	if err = errors.Join(err, from.Close()); err != nil {
		e.Problem = string(Redact([]byte(err.Error())))
	}
	data := b.Bytes()
	if len(data) > max {
		data, e.Cut = data[:max], true
	}
	if !p.Binary {
		data = Redact(data)
	}
	e.Bytes = len(data)
	return data, e
}

// Text is a piece that is there already.
func Text(name string, f func(context.Context) ([]byte, error)) Piece {
	return Piece{Name: name, Get: func(ctx context.Context) (io.ReadCloser, error) {
		b, err := f(ctx)
		return io.NopCloser(bytes.NewReader(b)), err
	}}
}

// JSON is a piece that a call gives.
func JSON(name string, f func(context.Context) (any, error)) Piece {
	return Text(name, func(ctx context.Context) ([]byte, error) {
		v, err := f(ctx)
		if err != nil {
			return nil, err
		}
		b, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", name, errors.Join(errs.ErrInvalid, err))
		}
		return append(b, '\n'), nil
	})
}
