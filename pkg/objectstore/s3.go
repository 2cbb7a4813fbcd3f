package objectstore

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
)

// S3 keeps objects in a bucket, or below a prefix of one, of a server that speaks S3 over TLS. It
// retries nothing: see Retry. Each object is one PUT with its CRC-32C, which the server
// checks where it knows how, and its ETag is asked for again afterwards.
type S3 struct {
	core   minio.Core
	cfg    S3Config
	prefix string // empty, or ends with a slash
	pace   *Pace
}

// NewS3 does not connect. The pace, which may be nil, holds back what goes over the wire.
func NewS3(cfg S3Config, key Credentials, roots *tls.Config, pace *Pace) (*S3, error) {
	t := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSClientConfig:     roots,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: time.Duration(cfg.Timeout),
		MaxIdleConnsPerHost: 32, MaxConnsPerHost: 64, IdleConnTimeout: time.Minute,
		DisableCompression: true, WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10,
	}
	c, err := minio.New(cfg.Endpoint, &minio.Options{
		Creds: credentials.NewStaticV4(key.Access, key.Secret, ""), Secure: true, Transport: t,
		Region: cfg.Region, BucketLookup: minio.BucketLookupPath, MaxRetries: 1,
	})
	if err != nil {
		return nil, fmt.Errorf("S3 at %s: %w: %w", cfg.Endpoint, errs.ErrInvalid, err)
	}
	s := &S3{core: minio.Core{Client: c}, cfg: cfg, pace: pace}
	if p := strings.Trim(cfg.Prefix, "/"); p != "" {
		s.prefix = p + "/"
	}
	return s, nil
}

// String is part of Store.
func (s *S3) String() string {
	return "s3://" + s.cfg.Endpoint + "/" + s.cfg.Bucket + "/" + s.prefix
}

// fail gives an answer of the server its class. A bucket that is gone is not an object
// that is not there: who believed that would take what depends on it for lost.
func (s *S3) fail(act, key string, err error) error {
	if err == nil {
		return nil
	}
	var r minio.ErrorResponse
	class, hint := errs.ErrUnavailable, ""
	const away = " (does the server run, is its address right, and is it quick enough?)"
	if !errors.As(err, &r) {
		hint = away
	} else {
		switch {
		case r.Code == minio.NoSuchBucket || r.Code == minio.InvalidBucketName:
			class, hint = errs.ErrInvalid, " (make the bucket, or name another one)"
		case r.StatusCode == http.StatusNotFound:
			class = errs.ErrNotFound
		case r.StatusCode == http.StatusPreconditionFailed || r.StatusCode == http.StatusConflict:
			class = errs.ErrExists
		case r.StatusCode == http.StatusForbidden || r.StatusCode == http.StatusUnauthorized:
			class, hint = errs.ErrDenied, " (look at the credentials and the bucket's policy)"
		case r.StatusCode == http.StatusTooManyRequests || r.StatusCode == http.StatusServiceUnavailable:
			hint = " (the server is overloaded: wait, or lower objects_at_once or bandwidth_max)"
		case r.StatusCode == http.StatusRequestedRangeNotSatisfiable:
			class = errs.ErrCorrupt
		case r.StatusCode == http.StatusInsufficientStorage:
			class = errs.ErrNoSpace
		case r.StatusCode == http.StatusBadRequest || r.StatusCode == http.StatusMethodNotAllowed:
			class = errs.ErrInvalid
		case r.StatusCode == 0:
			hint = away
		case r.StatusCode >= http.StatusInternalServerError:
			hint = " (the trouble is the server's: its log says more)"
		}
	}
	return fmt.Errorf("%s %s%s%s: %w: %w", act, s, key, hint, class, err)
}

// bound limits one request: what the time-out says, and a second for each 64 KiB.
func (s *S3) bound(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, time.Duration(s.cfg.Timeout)+s.pace.least(n)+time.Duration(n>>16)*time.Second)
}

// Put is part of Store.
func (s *S3) Put(ctx context.Context, key string, body []byte) error {
	_, err := s.put(ctx, key, body, minio.PutObjectOptions{})
	return err
}

// PutNew is part of Store.
func (s *S3) PutNew(ctx context.Context, key string, body []byte) error {
	var o minio.PutObjectOptions
	o.SetMatchETagExcept("*")
	_, err := s.put(ctx, key, body, o)
	return alreadyThere(err)
}

// lentReader reads a body until it is given back. A transport may go on reading what it sends when its request is
// over, answered early or given up; by then the body may be somebody else's memory.
type lentReader struct {
	mu sync.Mutex // while a piece is read
	r  io.Reader  // nil: given back
}

func (l *lentReader) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.r == nil {
		return 0, io.ErrClosedPipe
	}
	return l.r.Read(p)
}

func (l *lentReader) giveBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.r = nil
}

// put gives what the server then says of the object.
func (s *S3) put(ctx context.Context, key string, body []byte, o minio.PutObjectOptions) (is minio.ObjectInfo, err error) {
	if err := checkPut(key, body); err != nil {
		return is, err
	}
	ctx, cancel := s.bound(ctx, len(body))
	defer cancel()
	sum := binary.BigEndian.AppendUint32(nil, codec.CRC(body))
	o.UserMetadata = map[string]string{"x-amz-checksum-crc32c": base64.StdEncoding.EncodeToString(sum)}
	o.ContentType, o.DisableContentSha256 = "application/octet-stream", true
	lent := &lentReader{r: &pacedReader{ctx, s.pace, bytes.NewReader(body)}}
	if s.pace == nil {
		lent.r = bytes.NewReader(body)
	}
	defer lent.giveBack()
	info, err := s.core.PutObject(ctx, s.cfg.Bucket, s.prefix+key, lent, int64(len(body)), "", "", o)
	if err != nil {
		return is, s.refused(ctx, "put", key, err)
	}
	if is, err = s.core.StatObject(ctx, s.cfg.Bucket, s.prefix+key, minio.StatObjectOptions{}); err != nil {
		return is, s.fail("look at", key, err)
	}
	if is.ETag != info.ETag || is.Size != int64(len(body)) {
		return is, fmt.Errorf("put %s%s: %d bytes were stored as ETag %.64q, and %d bytes are there with ETag %.64q: %w",
			s, key, len(body), info.ETag, is.Size, is.ETag, errs.ErrUnavailable)
	}
	return is, nil
}

// ReadAt is part of Store.
func (s *S3) ReadAt(ctx context.Context, key string, dst []byte, offset int64) error {
	if err := CheckKey(key); err != nil || len(dst) == 0 {
		return err
	}
	ctx, cancel := s.bound(ctx, len(dst))
	defer cancel()
	var o minio.GetObjectOptions
	if err := o.SetRange(offset, offset+int64(len(dst))-1); err != nil {
		return fmt.Errorf("read %s at %d: %w: %w", key, offset, errs.ErrInvalid, err)
	}
	body, info, _, err := s.core.GetObject(ctx, s.cfg.Bucket, s.prefix+key, o)
	if err != nil {
		return s.fail("read", key, err)
	}
	defer body.Close()
	if info.Size != int64(len(dst)) { // of what is sent; a range goes no further than the object
		return shorter(s.String()+key, offset+int64(len(dst)), offset+info.Size)
	}
	var r io.Reader = body
	if s.pace != nil {
		r = &pacedReader{ctx, s.pace, body}
	}
	if n, err := io.ReadFull(r, dst); err != nil {
		return fmt.Errorf("read %s%s: cut off after %d of %d bytes: %w: %w", s, key, n, len(dst), errs.ErrUnavailable, err)
	}
	return nil
}

// Head is part of Store.
func (s *S3) Head(ctx context.Context, key string) (Info, error) {
	if err := CheckKey(key); err != nil {
		return Info{}, err
	}
	ctx, cancel := s.bound(ctx, 0)
	defer cancel()
	is, err := s.core.StatObject(ctx, s.cfg.Bucket, s.prefix+key, minio.StatObjectOptions{})
	if err != nil {
		// An answer to HEAD has no body: 404 may be the bucket's.
		if err = s.fail("look for", key, err); errors.Is(err, errs.ErrNotFound) {
			if ok, e := s.core.BucketExists(ctx, s.cfg.Bucket); e != nil {
				err = s.fail("look for", key, e)
			} else if !ok {
				err = fmt.Errorf("bucket of %s is not there (make the bucket, or name another one): %w", s, errs.ErrInvalid)
			}
		}
		return Info{}, err
	}
	return Info{Key: key, Size: is.Size, Modified: is.LastModified.UTC(), Lock: lockOf(is)}, nil
}

// List is part of Store.
func (s *S3) List(ctx context.Context, prefix, after string, limit int) ([]Info, error) {
	limit, err := checkList(prefix, after, limit)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.bound(ctx, 0)
	defer cancel()
	if after != "" {
		after = s.prefix + after
	}
	var out []Info
	for o := range s.core.Client.ListObjectsIter(ctx, s.cfg.Bucket, minio.ListObjectsOptions{
		Prefix: s.prefix + prefix, Recursive: true, StartAfter: after, MaxKeys: limit}) {
		if o.Err != nil {
			return nil, s.fail("list", prefix, o.Err)
		}
		if out = append(out, Info{Key: strings.TrimPrefix(o.Key, s.prefix), Size: o.Size, Modified: o.LastModified.UTC()}); len(out) == limit {
			break
		}
	}
	return out, nil
}

// Delete is part of Store.
func (s *S3) Delete(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	ctx, cancel := s.bound(ctx, 0)
	defer cancel()
	if s.cfg.EveryVersion {
		return s.deleteVersions(ctx, key)
	}
	err := s.core.RemoveObject(ctx, s.cfg.Bucket, s.prefix+key, minio.RemoveObjectOptions{})
	if err = s.refused(ctx, "delete", key, err); !errors.Is(err, errs.ErrNotFound) {
		return err
	}
	return nil
}
