// Command s3pipe writes its input to an object of an S3 server, in parts of 16 MiB, four at a time, or an object to its
// output: what anybody would pipe a copy of a disk through. It is for measurements, to compare with.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"ashlar.dev/pkg/objectstore"
)

func main() {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: s3pipe put|get https://HOST:PORT/BUCKET KEY CREDENTIALS CA < or > bytes")
		os.Exit(2)
	}
	if err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
		fmt.Fprintln(os.Stderr, "s3pipe:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, verb, place, key, secret, ca string) error {
	cfg, err := objectstore.ParsePlace(place)
	if err != nil {
		return err
	}
	k, err := objectstore.ReadCredentials(secret)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(ca)
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("read %s: no certificates in it: %w", ca, err)
	}
	c, err := minio.New(cfg.S3.Endpoint, &minio.Options{Creds: credentials.NewStaticV4(k.Access, k.Secret, ""), Secure: true, Region: cfg.S3.Region,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10, DisableCompression: true}})
	if err != nil {
		return err
	}
	key = strings.TrimPrefix(cfg.S3.Prefix+"/"+key, "/")
	if verb == "put" {
		_, err = c.PutObject(ctx, cfg.S3.Bucket, key, os.Stdin, -1, minio.PutObjectOptions{PartSize: 16 << 20, NumThreads: 4, ConcurrentStreamParts: true, DisableContentSha256: true})
		return err
	}
	o, err := c.GetObject(ctx, cfg.S3.Bucket, key, minio.GetObjectOptions{})
	if err == nil {
		_, err = io.Copy(os.Stdout, o)
	}
	return err
}
