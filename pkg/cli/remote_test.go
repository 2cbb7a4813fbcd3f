package cli

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ashlar.dev/pkg/objectstore/objectstoretest"
)

// serveTLS starts a server and gives its address and the file with its certificate.
func serveTLS(t *testing.T, h http.Handler) (address, ca string) {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(s.URL, "https://"), ca
}

// Without this files in S3 could not be imported, exports not go there, or be there in part.
func TestImagesGoToS3AndComeFromThere(t *testing.T) {
	x := newTerminal(t)
	tool := x.withTool()
	server := &objectstoretest.S3Server{Bucket: "bucket"}
	address, ca := serveTLS(t, server)
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, []byte("access_key = a\nsecret_key = hush\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	temp := t.TempDir()
	flags := " --s3-endpoint " + address + " --s3-credentials " + keys + " --ca " + ca + " --temp " + temp
	x.must("disk create d --size 4GiB")
	x.must("image create deb --from-disk d")
	x.must("image export deb s3://bucket/images/deb.vmdk" + flags)
	if code := x.run("image export deb s3://bucket/images/deb.vmdk" + flags); code != codeConflict || !strings.Contains(x.err.String(), "--force") {
		t.Errorf("over an object that is there: %d %s", code, x.err.String())
	}
	x.must("image export deb s3://bucket/images/deb.vmdk --force" + flags)
	x.must("image import copy s3://bucket/images/deb.vmdk --format raw" + flags)
	if m := x.fake.images[1]; m.Source != "file deb.vmdk" || m.Format != "raw" {
		t.Errorf("%v", m)
	}
	tool.fail = os.ErrInvalid
	if code := x.run("image export deb s3://bucket/other" + flags); code == codeOK || len(server.Keys()) != 1 {
		t.Errorf("half an object: %d, %v", code, server.Keys())
	}
	for line, want := range map[string]int{
		"image import y s3://bucket/none" + flags:              codeNotFound,
		"image import y s3://bucket/images/deb.vmdk":           codeUsage,
		"image import y s3://bucket" + flags:                   codeUsage,
		"image export deb https://" + address + "/x":           codeUsage,
		"image import y s3://other/images/deb.vmdk" + flags:    codeUsage, // no such bucket
		"image import y s3://bucket/../images/deb.raw" + flags: codeUsage,
	} {
		if code := x.run(line); code != want || strings.Contains(x.err.String(), "hush") {
			t.Errorf("%s: %d %s", line, code, x.err.String())
		}
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 || len(x.disksNow()) != 1 {
		t.Errorf("left behind: %v %v %v", left, x.disksNow(), err)
	}
}

// Without this a file could come from anybody on the way, and half of one be taken for all of it.
func TestFilesAreFetchedOverTLSOnly(t *testing.T) {
	x := newTerminal(t)
	x.withTool()
	address, ca := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/debian.raw":
			_, _ = w.Write(make([]byte, 5000))
		case "/cut":
			w.Header().Set("Content-Length", "10000")
			_, _ = w.Write(make([]byte, 5000))
			panic(http.ErrAbortHandler)
		case "/away":
			http.Redirect(w, r, "http://127.0.0.1:1/debian.raw", http.StatusFound)
		case "/denied":
			w.WriteHeader(http.StatusForbidden)
		default:
			http.NotFound(w, r)
		}
	}))
	url := "https://" + address
	x.must("image import deb " + url + "/debian.raw?token=hush --ca " + ca)
	if m := x.fake.images[0]; m.Source != "file debian.raw" {
		t.Errorf("%v", m)
	}
	for line, want := range map[string]int{
		"image import y " + url + "/cut?token=hush --ca " + ca:    codeUnavailable,
		"image import y " + url + "/none?token=hush --ca " + ca:   codeNotFound,
		"image import y " + url + "/denied?token=hush --ca " + ca: codeDenied,
		"image import y " + url + "/away?token=hush --ca " + ca:   codeUsage,
		"image import y " + url + "/debian.raw?token=hush":        codeUnavailable, // not trusted
		"image import y http://" + address + "/debian.raw":        codeUsage,
	} {
		if code := x.run(line); code != want || strings.Contains(x.err.String(), "hush") {
			t.Errorf("%s: %d %s", line, code, x.err.String())
		}
	}
	if len(x.fake.images) != 1 || len(x.disksNow()) != 0 {
		t.Errorf("%v %v", x.fake.images, x.disksNow())
	}
}
