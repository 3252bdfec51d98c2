// A kube-apiserver or an etcd server, as the first argument says; in one binary, because linking takes longest.
//
//	[KAPISERVER_HOSTNAME=NAME] kapiserver apiserver FLAG…
//	kapiserver etcd --data-dir D --client-url URL --peer-url URL
package main

import (
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	role := ""
	if len(os.Args) > 1 {
		role = os.Args[1]
		os.Args = append([]string{role}, os.Args[2:]...)
	}
	if name := os.Getenv("KAPISERVER_HOSTNAME"); name != "" {
		// Whoever asks for it has given this process a namespace for it.
		if err := syscall.Sethostname([]byte(name)); err != nil {
			fmt.Fprintln(os.Stderr, "the hostname:", err)
			os.Exit(1)
		}
	}
	switch role {
	case "apiserver":
		os.Exit(cli.Run(app.NewAPIServerCommand()))
	case "etcd":
		if err := etcd(); err != nil {
			fmt.Fprintln(os.Stderr, "etcd:", err)
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "usage: kapiserver apiserver FLAG… | kapiserver etcd --data-dir D --client-url URL --peer-url URL")
		os.Exit(2)
	}
}

// etcd serves one member until it is told to end. Its JSON gateway is on, so the stored bytes can be read over HTTP.
func etcd() error {
	config := embed.NewConfig()
	flag.StringVar(&config.Dir, "data-dir", "", "where the data is kept")
	client := flag.String("client-url", "", "where clients are served")
	peer := flag.String("peer-url", "", "where peers would be served")
	flag.Parse()
	clients, err := url.Parse(*client)
	if err != nil {
		return err
	}
	peers, err := url.Parse(*peer)
	if err != nil {
		return err
	}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{*clients}, []url.URL{*clients}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{*peers}, []url.URL{*peers}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.LogLevel = "error"
	// What is written here does not outlive the test, so the disk need not be waited for.
	config.UnsafeNoFsync = true
	server, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	defer server.Close()
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(time.Minute):
		return fmt.Errorf("not ready within a minute")
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-ended:
		return nil
	case err := <-server.Err():
		return err
	}
}
