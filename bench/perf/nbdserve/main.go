// Command nbdserve serves a null or memory disk over NBD, so that the server itself can be
// measured and tried with other people's tools.
//
//	nbdserve --unix /tmp/nbd.sock --device memory --size 1GiB
//
// It prints "ready" with the addresses, serves until SIGINT or SIGTERM, and ends in order.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	_ "net/http/pprof" // served where --pprof says
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/nbd/devices"
)

type config struct {
	unix, tcp, device, size, export, pprof string
	cert, key, ca                          string
	delay                                  time.Duration
	readOnly, hangup                       bool
}

func main() {
	var c config
	flag.StringVar(&c.unix, "unix", "", "serve on this unix socket")
	flag.StringVar(&c.tcp, "tcp", "", "serve on this TCP address")
	flag.StringVar(&c.device, "device", "memory", "null or memory")
	flag.StringVar(&c.size, "size", "1GiB", "size of the disk")
	flag.StringVar(&c.export, "export", "", "name of the export")
	flag.StringVar(&c.pprof, "pprof", "", "serve profiles on this address")
	flag.StringVar(&c.cert, "cert", "", "certificate for TLS on the TCP address; with it TLS is required there")
	flag.StringVar(&c.key, "key", "", "its key")
	flag.StringVar(&c.ca, "ca", "", "authority of client certificates; without it clients need none")
	flag.DurationVar(&c.delay, "delay", 0, "delay every request by this")
	flag.BoolVar(&c.readOnly, "readonly", false, "refuse writes")
	flag.BoolVar(&c.hangup, "hangup", false, "at the end hang up on requests that come late instead of failing them")
	flag.Parse()
	if err := run(c); err != nil {
		fmt.Fprintln(os.Stderr, "nbdserve:", err)
		os.Exit(1)
	}
}

func run(c config) error {
	device, err := c.open()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	server, err := nbd.NewServer(nbd.Config{Exports: single{c.export, device}, Log: log, HangupOnShutdown: c.hangup})
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	if c.unix != "" {
		l, err := net.Listen("unix", c.unix)
		if err != nil {
			return err
		}
		go func() { failed <- server.Serve(l, nbd.Endpoint{}) }()
	}
	if c.tcp != "" {
		l, err := net.Listen("tcp", c.tcp)
		if err != nil {
			return err
		}
		endpoint, err := c.endpoint()
		if err != nil {
			return err
		}
		c.tcp = l.Addr().String()
		go func() { failed <- server.Serve(l, endpoint) }()
	}
	if c.pprof != "" {
		go func() { failed <- http.ListenAndServe(c.pprof, nil) }()
	}
	fmt.Println("ready", c.unix, c.tcp)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return server.Shutdown(ctx)
}

func (c config) open() (nbd.Device, error) {
	size, err := bytesOf(c.size)
	if err != nil {
		return nil, err
	}
	var device nbd.Device
	switch c.device {
	case "null":
		device = devices.Null{Bytes: size}
	case "memory":
		device = devices.NewMemory(size, 0)
	default:
		return nil, fmt.Errorf("device %q is neither null nor memory", c.device)
	}
	if c.delay > 0 {
		device = &devices.Delay{Device: device, Read: c.delay, Write: c.delay, Other: c.delay}
	}
	if c.readOnly {
		device = devices.ReadOnly{Device: device}
	}
	return device, nil
}

func (c config) endpoint() (nbd.Endpoint, error) {
	if c.cert == "" {
		return nbd.Endpoint{}, nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return nbd.Endpoint{}, err
	}
	t := &tls.Config{Certificates: []tls.Certificate{pair}}
	if c.ca != "" {
		pem, err := os.ReadFile(c.ca)
		if err != nil {
			return nbd.Endpoint{}, err
		}
		t.ClientCAs = x509.NewCertPool()
		if !t.ClientCAs.AppendCertsFromPEM(pem) {
			return nbd.Endpoint{}, errors.New("no certificate in " + c.ca)
		}
		t.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return nbd.Endpoint{TLS: t, TLSRequired: true}, nil
}

// bytesOf reads a size: a number with B, KiB, MiB, GiB or TiB behind it, or none.
func bytesOf(s string) (uint64, error) {
	shift := 0
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if strings.HasSuffix(s, unit) {
			s, shift = strings.TrimSuffix(s, unit), 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(s, "B"), 10, 64)
	if err != nil || n>>(63-shift) > 0 {
		return 0, fmt.Errorf("size %q is not a number with KiB, MiB, GiB or TiB", s)
	}
	return n << shift, nil
}

// single exports one device.
type single struct {
	name   string
	device nbd.Device
}

func (e single) Open(_ context.Context, name string, _ nbd.Peer) (nbd.Handle, error) {
	if name != e.name {
		return nil, fmt.Errorf("export %q: %w", name, errs.ErrNotFound)
	}
	return nbd.Shared(e.device), nil
}

func (e single) List(context.Context, nbd.Peer) ([]nbd.ExportName, error) {
	return []nbd.ExportName{{Name: e.name, Description: e.device.Info().Description}}, nil
}
