// A KMS v2 plugin for the harness's own test. It keeps its keys in plain files and protects nothing; with faults it is
// wrong in one way each, which a case must notice.
//
//	fake serve --socket PATH|@NAME|activated --dir DIR --instance N
//	fake backend|setup|rotate DIR
//	fake degrade DIR on|off N
//	fake retirable OLD APISERVERS METRICS
//
// FAKE_FAULTS names faults, with commas between them.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"k8s.io/kms/apis/v2"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "fake:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) < 2 {
		return fmt.Errorf("see the head of main.go")
	}
	switch order, dir := arguments[0], arguments[1]; order {
	case "serve":
		return serve(arguments[1:])
	case "backend":
		for ; ; time.Sleep(100 * time.Millisecond) {
			if err := os.WriteFile(filepath.Join(dir, "alive"), nil, 0o600); err != nil {
				return err
			}
		}
	case "setup":
		for end := time.Now().Add(10 * time.Second); !backend(dir); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				return fmt.Errorf("the backend does not come")
			}
		}
		return addKey(dir)
	case "rotate":
		return addKey(dir)
	case "degrade":
		if len(arguments) != 4 {
			return fmt.Errorf("degrade DIR on|off N")
		}
		file := filepath.Join(dir, order+arguments[3])
		if arguments[2] == "on" {
			return os.WriteFile(file, nil, 0o600)
		}
		return os.Remove(file)
	case "retirable":
		if len(arguments) != 4 {
			return fmt.Errorf("retirable OLD APISERVERS METRICS")
		}
		return retirable(arguments[1], arguments[2], arguments[3], faults(os.Getenv("FAKE_FAULTS")))
	default:
		return fmt.Errorf("no order %q", order)
	}
}

// backend says whether the backend has shown life of late. It stands for a KMS: all that it does is to be there.
func backend(dir string) bool {
	alive, err := os.Stat(filepath.Join(dir, "alive"))
	return err == nil && time.Since(alive.ModTime()) < 2*time.Second
}

func serve(arguments []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	socket := flags.String("socket", "", "path, @name, or activated")
	dir := flags.String("dir", "", "where the keys are")
	instance := flags.String("instance", "", "which one this is")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	plugin, err := newPlugin(*dir, *instance, faults(os.Getenv("FAKE_FAULTS")))
	if err != nil {
		return err
	}
	if plugin.fault("slow-start") {
		time.Sleep(time.Minute)
	}
	listener, err := listen(*socket, plugin)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(plugin.intercept))
	v2.RegisterKeyManagementServiceServer(server, plugin)
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	go func() {
		<-ended
		if !plugin.fault("ignore-term") {
			server.Stop()
		}
	}()
	return server.Serve(listener)
}

func listen(socket string, plugin *plugin) (net.Listener, error) {
	if socket == "activated" {
		if os.Getenv("LISTEN_FDS") != "1" || os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
			return nil, fmt.Errorf("no socket was passed")
		}
		if plugin.fault("ignore-activation") {
			time.Sleep(time.Minute)
		}
		return net.FileListener(os.NewFile(3, "socket"))
	}
	if strings.HasPrefix(socket, "/") && !plugin.fault("stale-socket") {
		// What lies there was left by one that was killed.
		if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
			return nil, err
		}
	}
	return net.Listen("unix", socket)
}

// intercept stands before every call: for an outage, for delays, and for who the caller says that it speaks to.
func (p *plugin) intercept(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	method := info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:]
	if p.fault("refuse-authority") {
		known, _ := metadata.FromIncomingContext(ctx)
		if authority := strings.Join(known.Get(":authority"), ""); authority != "localhost" && !strings.HasPrefix(authority, "@") {
			return nil, status.Errorf(codes.Internal, "authority %q", authority)
		}
	}
	if p.stuck.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if p.fault("slow-" + strings.ToLower(method)) {
		time.Sleep(time.Second)
	}
	if p.fault(strings.ToLower(method) + "-error") {
		return nil, status.Error(codes.Unavailable, "no backend, by fault")
	}
	open := method == "Status" && (p.fault("outage-unnoticed") || p.fault("outage-in-words"))
	if !backend(p.dir) && !open {
		return nil, status.Error(codes.Unavailable, "the backend is away")
	}
	return handler(ctx, request)
}
