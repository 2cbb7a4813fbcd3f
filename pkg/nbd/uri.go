package nbd

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"ashlar.dev/pkg/errs"
)

// URI is an NBD address, as the tools of this trade write it:
//
//	nbd://host[:port]/export        nbds://… with TLS
//	nbd+unix:///export?socket=PATH  nbds+unix:///…
//
// tls-certificates=DIR names a directory with ca-cert.pem, client-cert.pem and client-key.pem.
type URI struct {
	TLS             bool
	Unix            bool
	Address         string // host:port, or the path of the socket
	Export          string
	TLSCertificates string
}

// portDefault is the port that IANA gave to NBD.
const portDefault = "10809"

// ParseURI reads s.
func ParseURI(s string) (URI, error) {
	u, err := url.Parse(s)
	if err != nil {
		return URI{}, fmt.Errorf("parse nbd address: %w: %w", err, errs.ErrInvalid)
	}
	bad := func(why string) (URI, error) {
		return URI{}, fmt.Errorf("nbd address %q: %s: %w", s, why, errs.ErrInvalid)
	}
	out := URI{Export: strings.TrimPrefix(u.Path, "/")}
	switch u.Scheme {
	case "nbd", "nbds", "nbd+unix", "nbds+unix":
		out.TLS = strings.HasPrefix(u.Scheme, "nbds")
		out.Unix = strings.HasSuffix(u.Scheme, "+unix")
	default:
		return bad("the scheme is not nbd, nbds, nbd+unix or nbds+unix")
	}
	if !validName([]byte(out.Export)) {
		return bad("the name of the export is not valid")
	}
	query := u.Query()
	out.TLSCertificates = query.Get("tls-certificates")
	if out.Unix {
		if out.Address = query.Get("socket"); out.Address == "" || u.Host != "" {
			return bad("a unix address has no host and names its socket by ?socket=PATH")
		}
		return out, nil
	}
	if u.Hostname() == "" {
		return bad("the host is missing")
	}
	if strings.Contains(u.Hostname(), ":") {
		if _, err := netip.ParseAddr(u.Hostname()); err != nil {
			return bad("the host is no IPv6 address; want nbd://[ADDRESS]:port/export")
		}
	}
	port := u.Port()
	if port == "" {
		port = portDefault
	}
	out.Address = net.JoinHostPort(u.Hostname(), port)
	return out, nil
}

// String is the address as ParseURI reads it.
func (u URI) String() string {
	out := url.URL{Scheme: "nbd", Path: "/" + u.Export}
	if u.TLS {
		out.Scheme = "nbds"
	}
	query := url.Values{}
	if u.Unix {
		out.Scheme += "+unix"
		query.Set("socket", u.Address)
	} else {
		out.Host = u.Address
	}
	if u.TLSCertificates != "" {
		query.Set("tls-certificates", u.TLSCertificates)
	}
	out.RawQuery = query.Encode()
	text := out.String()
	if u.Unix { // url leaves the empty host away
		text = strings.Replace(text, out.Scheme+":/", out.Scheme+":///", 1)
		text = strings.Replace(text, "/////", "///", 1)
	}
	return text
}

// network gives the arguments of a dial.
func (u URI) network() (network, address string) {
	if u.Unix {
		return "unix", u.Address
	}
	return "tcp", u.Address
}

// loadTLS makes the configuration that u's directory of certificates describes.
func (u URI) loadTLS() (*tls.Config, error) {
	config := &tls.Config{}
	if u.TLSCertificates != "" {
		pem, err := os.ReadFile(filepath.Join(u.TLSCertificates, "ca-cert.pem"))
		if err != nil {
			return nil, fmt.Errorf("read the certificate authority: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no certificate in ca-cert.pem of %s: %w", u.TLSCertificates, errs.ErrInvalid)
		}
		pair, err := tls.LoadX509KeyPair(filepath.Join(u.TLSCertificates, "client-cert.pem"), filepath.Join(u.TLSCertificates, "client-key.pem"))
		switch {
		case err == nil:
			config.Certificates = []tls.Certificate{pair}
		case !os.IsNotExist(err):
			return nil, fmt.Errorf("read the client certificate: %w", err)
		}
	}
	return config, nil
}
