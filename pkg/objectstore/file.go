package objectstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/minio/minio-go/v7"

	"ashlar.dev/pkg/errs"
)

// Files are objects of any size, for what people keep beside an archive: images of disks. They are read in pieces and
// written in parts; the last request makes an object of the parts, so there is never half a file under a key.

const (
	partBytes  = 64 << 20
	partsMax   = 10_000   // what servers take
	pieceBytes = 16 << 20 // of what is read at a time
	abortWait  = 15 * time.Second
)

// File is one to be put.
type File struct {
	Key  string
	Body io.ReaderAt
	Size int64
	// PartBytes is the size of the parts, 64 MiB if 0, more if there were too many.
	PartBytes int64
	// Each, if not nil, is called with how many bytes are there.
	Each func(done int64)
}

// multipart is a body that takes files.
type multipart interface {
	putFile(ctx context.Context, f File, again func(context.Context, func(int) error) error) error
}

// PutFile writes a file of any size in the place of one that is there. It is there whole when PutFile returns nil; after an error
// it is not there, or what was there before is, except after one of class ErrUnavailable of the last request. Only S3 takes files.
func PutFile(ctx context.Context, s Store, f File) error {
	again := func(_ context.Context, try func(int) error) error { return try(0) }
	if r, ok := s.(*retrying); ok {
		s, again = r.Store, r.again
	}
	m, ok := s.(multipart)
	if !ok {
		return fmt.Errorf("%s takes no files: %w", s, errs.ErrInvalid)
	}
	if err := CheckKey(f.Key); err != nil {
		return err
	}
	if f.PartBytes == 0 {
		f.PartBytes = partBytes
	}
	f.PartBytes = max(f.PartBytes, (f.Size/partsMax+1<<20-1)>>20<<20)
	if f.Each == nil {
		f.Each = func(int64) {}
	}
	return m.putFile(ctx, f, again)
}

func (s *S3) putFile(ctx context.Context, f File, again func(context.Context, func(int) error) error) (err error) {
	key := s.prefix + f.Key
	var upload string
	err = again(ctx, func(int) (err error) {
		ctx, cancel := s.bound(ctx, 0)
		defer cancel()
		upload, err = s.core.NewMultipartUpload(ctx, s.cfg.Bucket, key, minio.PutObjectOptions{ContentType: "application/octet-stream"})
		return s.fail("begin to put", f.Key, err)
	})
	if err != nil {
		return err
	}
	var parts []minio.CompletePart
	defer func() {
		if err == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortWait)
		defer cancel()
		_ = s.core.AbortMultipartUpload(ctx, s.cfg.Bucket, key, upload) // else the server's lifecycle rules drop the parts
	}()
	part := make([]byte, min(f.PartBytes, max(f.Size, 1)))
	for at := int64(0); at < f.Size || at == 0; at += f.PartBytes {
		b := part[:min(f.PartBytes, f.Size-at)]
		if _, err := f.Body.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read what is put: %w", err)
		}
		if err := again(ctx, func(int) error { return s.putPart(ctx, f.Key, upload, b, &parts) }); err != nil {
			return err
		}
		f.Each(at + int64(len(b)))
	}
	err = again(ctx, func(try int) error {
		ctx, cancel := s.bound(ctx, 0)
		defer cancel()
		_, err := s.core.CompleteMultipartUpload(ctx, s.cfg.Bucket, key, upload, parts, minio.PutObjectOptions{})
		err = s.fail("end to put", f.Key, err)
		if try > 0 && errors.Is(err, errs.ErrNotFound) {
			return nil // the answer to an earlier try was lost, and the upload is no more; what is there is looked at
		}
		return err
	})
	if err != nil {
		return err
	}
	return again(ctx, func(int) error {
		is, err := s.Head(ctx, f.Key)
		if err == nil && is.Size != f.Size {
			err = fmt.Errorf("put %s%s: %d bytes were stored, %d are there: %w", s, f.Key, f.Size, is.Size, errs.ErrInvalid)
		}
		return err
	})
}

func (s *S3) putPart(ctx context.Context, key, upload string, b []byte, parts *[]minio.CompletePart) error {
	ctx, cancel := s.bound(ctx, len(b))
	defer cancel()
	var r io.Reader = bytes.NewReader(b)
	if s.pace != nil {
		r = &pacedReader{ctx, s.pace, bytes.NewReader(b)}
	}
	n := len(*parts) + 1
	is, err := s.core.PutObjectPart(ctx, s.cfg.Bucket, s.prefix+key, upload, n, r, int64(len(b)), minio.PutObjectPartOptions{})
	if err != nil {
		return s.fail("put a part of", key, err)
	}
	*parts = append(*parts, minio.CompletePart{PartNumber: n, ETag: is.ETag})
	return nil
}

// GetFile reads an object of any size, and gives its size. Each, if not nil, is called with how many bytes are there, and how many it has.
func GetFile(ctx context.Context, s Store, key string, w io.Writer, each func(done, all int64)) (int64, error) {
	is, err := s.Head(ctx, key)
	if err != nil {
		return 0, err
	}
	piece := make([]byte, min(pieceBytes, is.Size))
	for at := int64(0); at < is.Size; at += pieceBytes {
		b := piece[:min(pieceBytes, is.Size-at)]
		if err := s.ReadAt(ctx, key, b, at); err != nil {
			return 0, err
		}
		if _, err := w.Write(b); err != nil {
			return 0, fmt.Errorf("keep %s: %w", key, err)
		}
		if each != nil {
			each(at+int64(len(b)), is.Size)
		}
	}
	return is.Size, nil
}
