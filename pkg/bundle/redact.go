package bundle

import "regexp"

// secrets are what must not leave a machine, wherever it turns up: in a log, in a config
// file that somebody wrote by hand, in the text of an error.
var secrets = []*regexp.Regexp{
	// Private keys, whole or cut off in the middle. Certificates are public.
	regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z0-9 ]*-----.*?(?:-----END [A-Z0-9 ]*-----|\z)`),
	// The rest of one whose beginning was cut off: nothing but base64 up to its end.
	regexp.MustCompile(`(?:\A|\n)(?:[A-Za-z0-9+/=]+\r?\n)*-----END [A-Z0-9 ]*PRIVATE KEY[A-Z0-9 ]*-----`),
	regexp.MustCompile(`ashlar-join-[A-Za-z0-9_-]+`),
	regexp.MustCompile(`(?i)\bBearer +[A-Za-z0-9._~+/=-]+`),
}

// named are values whose names say that they are secret: key: value, key=value, "key": "value".
var named = regexp.MustCompile(`(?i)((?:secret|password|passwd|passphrase|private_?key|access_?key|secret_?key|api_?key|auth_?token|credentials?)["']?[ \t]*[:=][ \t]*)("[^"\n]*"|'[^'\n]*'|[^\s,}]+)`)

const hidden = "[redacted]"

// Redact hides what looks like a secret: it hides too much rather than too little.
func Redact(b []byte) []byte {
	for _, r := range secrets {
		b = r.ReplaceAllLiteral(b, []byte(hidden))
	}
	return named.ReplaceAll(b, []byte("${1}"+hidden))
}
