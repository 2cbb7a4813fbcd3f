package objectstore

import (
	"strings"
	"testing"
)

// Places and files of credentials are written by people: they give what can be used, or an error without secrets in it.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"file:///srv/archive", "s3://s3.example.org:9000/bucket/prefix/x", "https://h/b", "access_key = A\nsecret_key = hush-hush"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := ParsePlace(text); err == nil && (!c.Given() || c.Directory == "/" || strings.Contains(c.S3.Endpoint, "@")) {
			t.Errorf("place %q: %+v", text, c)
		}
		c, err := parseCredentials([]byte(text))
		if err == nil && (c.Access == "" || c.Secret == "" || strings.ContainsAny(c.Access+c.Secret, "\n")) {
			t.Errorf("credentials %q: %+v", text, c)
		}
		if err != nil && len(c.Secret) > 12 && strings.Contains(err.Error(), c.Secret) {
			t.Errorf("the error tells the secret: %v", err)
		}
	})
}
