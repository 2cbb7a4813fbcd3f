package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/diskfile"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/objectstore"
)

// remoteFlags say how files are reached that are not on this machine.
type remoteFlags struct {
	S3Endpoint    string `name:"s3-endpoint" help:"HOST[:PORT] of the S3 server of s3://BUCKET/KEY; always TLS." placeholder:"HOST:PORT"`
	S3Credentials string `name:"s3-credentials" help:"File with the lines access_key = … and secret_key = …, readable by you only." placeholder:"FILE" type:"existingfile"`
	S3Region      string `name:"s3-region" help:"What requests are signed for." placeholder:"us-east-1"`
	CA            string `name:"ca" help:"File of certificates to trust for s3:// and https:// instead of the system's." placeholder:"FILE" type:"existingfile"`
	Temp          string `help:"Folder for what is on its way from or to there; the system's if not given. Nothing stays in it." type:"existingdir" placeholder:"DIR"`
}

const (
	downloadMax   = 4 << 40 // bytes of a file from elsewhere
	silenceMax    = time.Minute
	redirectsMax  = 5
	fetchTriesMax = 5
)

// isRemote tells a file that is elsewhere.
func isRemote(file string) bool {
	return strings.HasPrefix(file, "s3://") || strings.HasPrefix(file, "https://") || strings.HasPrefix(file, "http://")
}

// baseName is what a file is called, without what may be secret in an address.
func baseName(file string) string {
	if u, err := url.Parse(file); err == nil && isRemote(file) {
		file = u.Path
	}
	return path.Base(file)
}

// store opens the bucket of an address and gives the key in it.
func (f *remoteFlags) store(c clock.Clock, address string) (objectstore.Store, string, error) {
	bucket, key, _ := strings.Cut(strings.TrimPrefix(address, "s3://"), "/")
	if bucket == "" || key == "" || f.S3Endpoint == "" || f.S3Credentials == "" {
		return nil, "", &hinted{fmt.Errorf("%s: want s3://BUCKET/KEY with --s3-endpoint and --s3-credentials: %w", address, errs.ErrInvalid), "see --help"}
	}
	cfg := objectstore.Config{Tries: fetchTriesMax, S3: objectstore.S3Config{Endpoint: f.S3Endpoint, Bucket: bucket, Region: f.S3Region, Credentials: f.S3Credentials, CA: f.CA}}
	cfg.EnsureDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, "", err
	}
	s, err := objectstore.Open(cfg, c)
	return s, key, err
}

// nameless makes a file that has no name any more: it is gone with us, however we end.
func (f *remoteFlags) nameless() (*os.File, error) {
	file, err := os.CreateTemp(f.Temp, "ashlar-image-")
	if err == nil {
		err = os.Remove(file.Name())
	}
	if err != nil {
		return nil, fmt.Errorf("make a file for what is on its way: %w", err)
	}
	return file, nil
}

// fetch brings a file here that is elsewhere.
func (f *remoteFlags) fetch(ctx context.Context, s *session, address string) (file *os.File, size int64, err error) {
	if file, err = f.nameless(); err != nil {
		return nil, 0, err
	}
	began := s.Clock.Now()
	each := func(done, all int64) {
		perSecond := float64(done) / max((s.Clock.Now()-began).Seconds(), 0.1)
		s.line("fetch " + progressBar(uint64(done), uint64(max(all, done)), uint64(perSecond)))
	}
	if strings.HasPrefix(address, "s3://") {
		var store objectstore.Store
		var key string
		if store, key, err = f.store(s.Clock, address); err == nil {
			size, err = objectstore.GetFile(ctx, store, key, file, each)
		}
	} else {
		size, err = f.download(ctx, address, file, each)
	}
	s.line("")
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("fetch %s: %w", baseName(address), err), file.Close())
	}
	return file, size, nil
}

// send writes an export to where it goes, and gives its size. It is there whole or not at all.
func (f *remoteFlags) send(ctx context.Context, s *session, address string, replace bool, write func(path string) error) (size int64, err error) {
	if !strings.HasPrefix(address, "s3://") {
		return 0, &hinted{fmt.Errorf("nothing is written to %s: %w", baseName(address), errs.ErrInvalid), "write a file, or s3://BUCKET/KEY"}
	}
	store, key, err := f.store(s.Clock, address)
	if err != nil {
		return 0, err
	}
	switch _, err := store.Head(ctx, key); {
	case err == nil && !replace:
		return 0, fmt.Errorf("%s: %w", address, errs.ErrExists)
	case err != nil && !errors.Is(err, errs.ErrNotFound):
		return 0, err
	}
	file, err := f.nameless()
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }() // nobody needs it any more
	if err := write(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd())); err != nil {
		return 0, err
	}
	is, err := file.Stat()
	if err != nil {
		return 0, fmt.Errorf("look at the file: %w", err)
	}
	began := s.Clock.Now()
	return is.Size(), objectstore.PutFile(ctx, store, objectstore.File{Key: key, Body: file, Size: is.Size(), Each: func(done int64) {
		perSecond := float64(done) / max((s.Clock.Now()-began).Seconds(), 0.1)
		s.line("send " + progressBar(uint64(done), uint64(is.Size()), uint64(perSecond)))
	}})
}

// download gets a file over HTTPS. A server that is silent for a minute is given up.
func (f *remoteFlags) download(ctx context.Context, address string, w io.Writer, each func(done, all int64)) (int64, error) {
	client, err := f.client()
	if err != nil {
		return 0, err
	}
	defer client.CloseIdleConnections()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil || q.URL.Scheme != "https" {
		return 0, &hinted{fmt.Errorf("the address is not https://: %w", errs.ErrInvalid), "what comes over http:// may be anybody's; fetch it yourself and check its sum"}
	}
	r, err := client.Do(q)
	if err != nil {
		var told *url.Error // it has the address, which may have secrets
		if errors.As(err, &told) {
			err = told.Err
		}
		return 0, fmt.Errorf("%w: %w", errs.ErrUnavailable, err)
	}
	defer func() { _ = r.Body.Close() }() // only read
	switch {
	case r.StatusCode == http.StatusNotFound:
		return 0, fmt.Errorf("the server says %s: %w", r.Status, errs.ErrNotFound)
	case r.StatusCode == http.StatusForbidden || r.StatusCode == http.StatusUnauthorized:
		return 0, fmt.Errorf("the server says %s: %w", r.Status, errs.ErrDenied)
	case r.StatusCode != http.StatusOK:
		return 0, fmt.Errorf("the server says %s: %w", r.Status, errs.ErrUnavailable)
	case r.ContentLength > downloadMax:
		return 0, fmt.Errorf("%d bytes, at most %d are fetched: %w", r.ContentLength, int64(downloadMax), errs.ErrInvalid)
	}
	n, err := io.Copy(&counting{w: w, all: r.ContentLength, each: each}, io.LimitReader(r.Body, downloadMax+1))
	switch {
	case err != nil:
		return 0, fmt.Errorf("cut off after %d bytes: %w: %w", n, errs.ErrUnavailable, err)
	case n > downloadMax:
		return 0, fmt.Errorf("more than %d bytes: %w", int64(downloadMax), errs.ErrInvalid)
	}
	return n, nil
}

// client is one that goes nowhere but over TLS.
func (f *remoteFlags) client() (*http.Client, error) {
	trust := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("read CA: %w", err)
		}
		if trust.RootCAs = x509.NewCertPool(); !trust.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificates: %w", f.CA, errs.ErrInvalid)
		}
	}
	d := &net.Dialer{Timeout: 15 * time.Second}
	return &http.Client{
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: trust, TLSHandshakeTimeout: 15 * time.Second, ResponseHeaderTimeout: silenceMax, DisableCompression: true,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := d.DialContext(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return &impatient{conn}, nil
			}},
		CheckRedirect: func(q *http.Request, via []*http.Request) error {
			if len(via) >= redirectsMax || q.URL.Scheme != "https" {
				return fmt.Errorf("it sends us on to where we do not go: %w", errs.ErrInvalid)
			}
			return nil
		},
	}, nil
}

// impatient is a connection that breaks when nothing comes.
type impatient struct {
	net.Conn
}

func (c *impatient) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(clock.System.Wall().Add(silenceMax)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

// counting tells what passes.
type counting struct {
	w         io.Writer
	done, all int64
	each      func(done, all int64)
}

func (c *counting) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.done += int64(n)
	c.each(c.done, c.all)
	return n, err
}

// open opens what is to be imported, wherever it is.
func (f *remoteFlags) open(ctx context.Context, s *session, file string) (*os.File, int64, error) {
	if isRemote(file) {
		return f.fetch(ctx, s, file)
	}
	return openFile(file)
}

// put writes an export to a file or elsewhere.
func (c *exportFlags) put(ctx context.Context, s *session, tool DiskFiles, uri, file string, all uint64) (uint64, error) {
	write := func(path string) error {
		return tool.FromNBD(ctx, uri, path, c.format(file), c.Compress, s.follow(all))
	}
	if isRemote(file) {
		n, err := c.send(ctx, s, file, c.Force, write)
		return uint64(n), err
	}
	return whole(file, c.Force, write)
}

var _ DiskFiles = (*diskfile.Tool)(nil)
