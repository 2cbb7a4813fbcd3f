package cli

import (
	"os"
	"path/filepath"
	"testing"
)

// Without this an archive could not be put into a bucket from the command line, or its secrets would be on it.
func TestDevTakesABucket(t *testing.T) {
	x := newTerminal(t)
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	x.must("dev --s3 https://s3.example:9000/bucket/some/where --s3-credentials " + file)
	if s := x.dev.S3; s == nil || s.Endpoint != "s3.example:9000" || s.Bucket != "bucket" || s.Prefix != "some/where" || s.Credentials != file {
		t.Errorf("%+v", x.dev.S3)
	}
	for _, line := range []string{"dev --s3 http://s3.example/bucket --s3-credentials " + file, "dev --s3 https://me:secret@s3.example/bucket --s3-credentials " + file,
		"dev --s3 https://s3.example --s3-credentials " + file, "dev --s3 https://s3.example/bucket"} {
		if code := x.run(line); code != 2 {
			t.Errorf("%s: exit code %d", line, code)
		}
	}
}

// Without this somebody who asks for no metad would be given three.
func TestDevWithoutDaemonsIsRefused(t *testing.T) {
	x := newTerminal(t)
	for _, line := range []string{"dev --metad 0", "dev --blockd=-1", "dev --stores 0"} {
		if code := x.run(line); code != codeUsage {
			t.Errorf("%s: exit code %d", line, code)
		}
	}
}
