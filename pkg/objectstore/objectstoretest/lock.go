package objectstoretest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/objectstore"
)

// Open serves s over TLS and gives a store on it, below a prefix; done ends both.
func (s *S3Server) Open(cfg objectstore.S3Config, pace *objectstore.Pace) (store *objectstore.S3, done func(), err error) {
	h := httptest.NewTLSServer(s)
	roots := x509.NewCertPool()
	roots.AddCert(h.Certificate())
	cfg.Endpoint, cfg.Bucket, cfg.Region = strings.TrimPrefix(h.URL, "https://"), s.Bucket, "us-east-1"
	if cfg.Timeout == 0 {
		cfg.Timeout = config.Duration(10 * time.Second)
	}
	store, err = objectstore.NewS3(cfg, objectstore.Credentials{Access: "a", Secret: "s"}, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, pace)
	return store, h.Close, err
}

const (
	lockMode  = "X-Amz-Object-Lock-Mode"
	lockUntil = "X-Amz-Object-Lock-Retain-Until-Date"
)

func (s *S3Server) now() time.Time {
	if s.Clock != nil {
		return s.Clock()
	}
	return time.Unix(0, 0)
}

func (o s3Object) locked(now time.Time) bool { return o.until.After(now) }

// locks answers what is asked about locks, if that is asked.
func (s *S3Server) locks(w http.ResponseWriter, r *http.Request, key string) bool {
	q := r.URL.Query()
	switch {
	case q.Has("object-lock") && !s.Locks:
		s3Error(w, http.StatusNotFound, "ObjectLockConfigurationNotFoundError")
	case q.Has("object-lock"):
		rule := ""
		if s.LocksByDefault {
			rule = "<Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule>"
		}
		fmt.Fprintf(w, "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled>%s</ObjectLockConfiguration>", rule)
	case q.Has("retention"):
		s.retain(w, r, key)
	case key == "" && q.Has("versions"):
		s.versions(w, q.Get("prefix"))
	default:
		return false
	}
	return true
}

// retain makes a lock longer, and none shorter.
func (s *S3Server) retain(w http.ResponseWriter, r *http.Request, key string) {
	var x struct {
		Mode            string
		RetainUntilDate time.Time
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[key]
	switch err := xml.NewDecoder(r.Body).Decode(&x); {
	case err != nil || !s.Locks:
		s3Error(w, http.StatusBadRequest, "InvalidRequest")
	case !ok:
		s3Error(w, http.StatusNotFound, "NoSuchKey")
	case o.locked(s.now()) && (x.RetainUntilDate.Before(o.until) || x.Mode != o.mode):
		s3Error(w, http.StatusForbidden, "AccessDenied")
	default:
		o.mode, o.until = x.Mode, x.RetainUntilDate
		s.objects[key] = o
	}
}

// versions lists objects as a server does that locks and keeps no versions.
func (s *S3Server) versions(w http.ResponseWriter, prefix string) {
	fmt.Fprint(w, "<ListVersionsResult>")
	for _, k := range s.Keys() {
		if strings.HasPrefix(k, prefix) {
			fmt.Fprintf(w, "<Version><Key>%s</Key><VersionId>null</VersionId><IsLatest>true</IsLatest></Version>", k)
		}
	}
	fmt.Fprint(w, "</ListVersionsResult>")
}

// lockOf reads with what lock an object is put.
func lockOf(h http.Header) (mode string, until time.Time) {
	until, err := time.Parse(time.RFC3339, h.Get(lockUntil))
	if err != nil {
		return "", time.Time{} // without
	}
	return h.Get(lockMode), until
}
