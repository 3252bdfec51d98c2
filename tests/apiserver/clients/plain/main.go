// A plain client of a KMS v2 plugin. It is built once with each release of k8s.io/apiserver that has a module beside it.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	"k8s.io/kms/pkg/service"
)

func main() {
	if err := talk(os.Args[1]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func talk(endpoint string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := kmsv2.NewGRPCService(ctx, endpoint, "plain", 10*time.Second)
	if err != nil {
		return err
	}
	status, err := client.Status(ctx)
	if err != nil {
		return fmt.Errorf("Status: %w", err)
	}
	seed := []byte("thirty-two bytes, as a seed has.")
	sealed, err := client.Encrypt(ctx, "uid", seed)
	if err != nil {
		return fmt.Errorf("Encrypt: %w", err)
	}
	if sealed.KeyID != status.KeyID {
		return fmt.Errorf("Encrypt names key %q, and Status %q", sealed.KeyID, status.KeyID)
	}
	opened, err := client.Decrypt(ctx, "uid", &service.DecryptRequest{
		Ciphertext: sealed.Ciphertext, KeyID: sealed.KeyID, Annotations: sealed.Annotations,
	})
	if err != nil {
		return fmt.Errorf("Decrypt: %w", err)
	}
	if !bytes.Equal(opened, seed) {
		return fmt.Errorf("Decrypt answers another plaintext")
	}
	return nil
}
