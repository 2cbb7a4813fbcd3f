package objectstoretest

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// S3Server is an http.Handler that speaks as much S3 as an objectstore does, for one bucket, in
// memory. Serve it over TLS. It checks no signatures: it is for tests on one machine.
type S3Server struct {
	Bucket string
	// Fault is asked about each request; nil: all is well. Set it before use.
	Fault func(*http.Request) Fault
	Clock func() time.Time // nil: the beginning of time
	// Locks: the bucket has object lock, and keeps no versions. Forgets: it takes locks and forgets them.
	Locks, LocksByDefault, Forgets bool

	mu      sync.Mutex
	objects map[string]s3Object
	uploads map[string]*upload
	begun   int
	Puts    map[string]int // by key: how often it was put, or tried to be; read it when all is quiet
}

// Fault is what an answer suffers.
type Fault struct {
	Status    int    // instead of what was asked for
	Code      string // of S3, with Status
	AfterDone bool   // the request is carried out first
	CutAfter  int    // > 0: the connection breaks after so many bytes of the body
	ETag      string // instead of the true one
	Wait      <-chan struct{}
}

type s3Object struct {
	body     []byte
	modified time.Time
	mode     string
	until    time.Time // locked
}

func (o s3Object) etag() string {
	sum := md5.Sum(o.body)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

func s3Error(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, code)
}

// ServeHTTP answers one request.
func (s *S3Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var f Fault
	if s.Fault != nil {
		f = s.Fault(r)
	}
	if f.Wait != nil {
		select {
		case <-f.Wait:
		case <-r.Context().Done():
			return
		}
	}
	if f.Status != 0 && !f.AfterDone {
		_, _ = io.Copy(io.Discard, r.Body) // the client is refused in any case
		s3Error(w, f.Status, f.Code)
		return
	}
	if f.Status != 0 {
		s.serve(discard{}, r, f)
		s3Error(w, f.Status, f.Code)
		return
	}
	s.serve(w, r, f)
}

// discard is an answer that nobody hears.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

func (s *S3Server) serve(w http.ResponseWriter, r *http.Request, f Fault) {
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case bucket != s.Bucket:
		s3Error(w, http.StatusNotFound, "NoSuchBucket")
	case s.locks(w, r, key):
	case key == "" && r.Method == http.MethodHead:
		w.WriteHeader(http.StatusOK)
	case key == "" && r.Method == http.MethodGet:
		s.list(w, r)
	case s.multi(w, r, key):
	case r.Method == http.MethodPut:
		s.put(w, r, key, f)
	case r.Method == http.MethodDelete:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.objects[key].locked(s.now()) {
			s3Error(w, http.StatusForbidden, "AccessDenied")
			return
		}
		delete(s.objects, key)
		w.WriteHeader(http.StatusNoContent)
	default:
		s.get(w, r, key, f)
	}
}

func (s *S3Server) put(w http.ResponseWriter, r *http.Request, key string, f Fault) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects == nil {
		s.objects, s.Puts = make(map[string]s3Object), make(map[string]int)
	}
	s.Puts[key]++
	if _, ok := s.objects[key]; ok && r.Header.Get("If-None-Match") == "*" {
		s3Error(w, http.StatusPreconditionFailed, "PreconditionFailed")
		return
	}
	o := s3Object{body: body, modified: s.now()}
	switch o.mode, o.until = lockOf(r.Header); {
	case s.objects[key].locked(s.now()):
		s3Error(w, http.StatusForbidden, "AccessDenied")
		return
	case o.mode != "" && !s.Locks && !s.Forgets:
		s3Error(w, http.StatusBadRequest, "InvalidRequest")
		return
	case s.Forgets:
		o.mode, o.until = "", time.Time{}
	}
	s.objects[key] = o
	w.Header().Set("ETag", o.etag())
	if f.ETag != "" {
		w.Header().Set("ETag", f.ETag)
	}
}

func (s *S3Server) get(w http.ResponseWriter, r *http.Request, key string, f Fault) {
	s.mu.Lock()
	o, ok := s.objects[key]
	s.mu.Unlock()
	if !ok {
		s3Error(w, http.StatusNotFound, "NoSuchKey")
		return
	}
	w.Header().Set("ETag", o.etag())
	if f.ETag != "" {
		w.Header().Set("ETag", f.ETag)
	}
	w.Header().Set("Last-Modified", o.modified.UTC().Format(http.TimeFormat))
	if o.mode != "" {
		w.Header().Set(lockMode, o.mode)
		w.Header().Set(lockUntil, o.until.UTC().Format(time.RFC3339))
	}
	body, status := o.body, http.StatusOK
	var from, to int
	if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); n == 2 {
		if from >= len(body) {
			s3Error(w, http.StatusRequestedRangeNotSatisfiable, "InvalidRange")
			return
		}
		to = min(to, len(body)-1)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(body)))
		body, status = body[from:to+1], http.StatusPartialContent
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return
	}
	if f.CutAfter > 0 && f.CutAfter < len(body) {
		_, _ = w.Write(body[:f.CutAfter])
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(body)
}

type s3List struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	IsTruncated           bool
	NextContinuationToken string `xml:",omitempty"`
	KeyCount              int
	Contents              []s3Entry
}

type s3Entry struct {
	Key, LastModified, ETag string
	Size                    int
}

func (s *S3Server) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	after := max(q.Get("start-after"), q.Get("continuation-token"))
	limit, _ := strconv.Atoi(q.Get("max-keys"))
	if limit <= 0 {
		limit = 1000
	}
	out := s3List{}
	for _, k := range s.Keys() {
		if k <= after || !strings.HasPrefix(k, q.Get("prefix")) {
			continue
		}
		if out.KeyCount == limit {
			out.IsTruncated, out.NextContinuationToken = true, out.Contents[limit-1].Key
			break
		}
		s.mu.Lock()
		o := s.objects[k]
		s.mu.Unlock()
		out.KeyCount++
		out.Contents = append(out.Contents, s3Entry{k, o.modified.UTC().Format(time.RFC3339), o.etag(), len(o.body)})
	}
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(out) // the client sees what is cut off
}

// Keys are those of all objects, in order.
func (s *S3Server) Keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for k := range s.objects {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
