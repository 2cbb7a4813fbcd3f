package telemetry

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewRegistry is a registry with what every daemon shows: Go's runtime, the process's
// CPU seconds, resident memory and open files, and ashlar_build_info.
func NewRegistry(daemon string) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "ashlar_build_info", Help: "Always 1; the labels say what runs.",
	}, []string{"daemon", "version", "go"})
	version, goVersion := Version()
	build.WithLabelValues(daemon, version, goVersion).Set(1)
	reg.MustRegister(build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// productVersion is set by the Makefile with -ldflags -X; a plain go build says devel.
var productVersion = "devel"

// Version is the product's version and that of the Go it was built with.
func Version() (product, goVersion string) {
	if info, ok := debug.ReadBuildInfo(); ok {
		goVersion = info.GoVersion
	}
	return productVersion, goVersion
}

// Usage is what this process has cost so far.
type Usage struct {
	CPU           time.Duration // user and system
	ResidentBytes uint64
}

// ReadUsage asks the kernel. A figure that cannot be had is zero.
func ReadUsage() Usage {
	var u Usage
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err == nil {
		u.CPU = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 1 {
			if pages, err := strconv.ParseUint(f[1], 10, 64); err == nil {
				u.ResidentBytes = pages * uint64(os.Getpagesize())
			}
		}
	}
	return u
}
