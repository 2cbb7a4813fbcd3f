package objectstoretest

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// upload is one in parts that is not ended.
type upload struct {
	key   string
	parts map[int][]byte
}

// Uploads counts those in parts that are neither ended nor given up.
func (s *S3Server) Uploads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.uploads)
}

// multi answers what is about an upload in parts; false: it is not.
func (s *S3Server) multi(w http.ResponseWriter, r *http.Request, key string) bool {
	q := r.URL.Query()
	begins := r.Method == http.MethodPost && q.Has("uploads")
	if !begins && !q.Has("uploadId") {
		return false
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if begins {
		if s.uploads == nil {
			s.uploads = make(map[string]*upload)
		}
		s.begun++
		name := strconv.Itoa(s.begun)
		s.uploads[name] = &upload{key: key, parts: make(map[int][]byte)}
		fmt.Fprintf(w, "<InitiateMultipartUploadResult><Bucket>%s</Bucket><Key>%s</Key><UploadId>%s</UploadId></InitiateMultipartUploadResult>", s.Bucket, key, name)
		return true
	}
	u := s.uploads[q.Get("uploadId")]
	switch {
	case u == nil || u.key != key:
		s3Error(w, http.StatusNotFound, "NoSuchUpload")
	case r.Method == http.MethodPut:
		n, _ := strconv.Atoi(q.Get("partNumber"))
		u.parts[n] = body
		w.Header().Set("ETag", s3Object{body: body}.etag())
	case r.Method == http.MethodDelete:
		delete(s.uploads, q.Get("uploadId"))
		w.WriteHeader(http.StatusNoContent)
	default:
		s.end(w, q.Get("uploadId"), u, body)
	}
	return true
}

// end makes an object of the parts that are named.
func (s *S3Server) end(w http.ResponseWriter, name string, u *upload, body []byte) {
	var list struct {
		Part []struct {
			PartNumber int
			ETag       string
		}
	}
	if err := xml.Unmarshal(body, &list); err != nil {
		s3Error(w, http.StatusBadRequest, "MalformedXML")
		return
	}
	var whole []byte
	for i, p := range list.Part {
		if b, ok := u.parts[p.PartNumber]; !ok || p.PartNumber != i+1 || s.quoted(p.ETag) != (s3Object{body: b}).etag() {
			s3Error(w, http.StatusBadRequest, "InvalidPart")
			return
		}
		whole = append(whole, u.parts[p.PartNumber]...)
	}
	if s.objects == nil {
		s.objects, s.Puts = make(map[string]s3Object), make(map[string]int)
	}
	delete(s.uploads, name)
	o := s3Object{body: whole, modified: time.Unix(0, 0)}
	s.objects[u.key] = o
	fmt.Fprintf(w, "<CompleteMultipartUploadResult><Bucket>%s</Bucket><Key>%s</Key><ETag>%s</ETag></CompleteMultipartUploadResult>", s.Bucket, u.key, o.etag())
}

func (*S3Server) quoted(etag string) string {
	if etag != "" && etag[0] != '"' {
		return `"` + etag + `"`
	}
	return etag
}
