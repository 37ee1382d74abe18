package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
)

func main() {
	secret := []byte(os.Getenv("TIDINGS_SIGNING_SECRET"))
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 4<<20))
		if err != nil {
			return
		}
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(r.Header.Get("X-Chatwoot-Timestamp") + "."))
		mac.Write(body)
		expected := "sha256=" + hex.EncodeToString(mac.Sum(nil))
		genuine := hmac.Equal([]byte(expected), []byte(r.Header.Get("X-Chatwoot-Signature")))
		if !genuine {
			w.WriteHeader(http.StatusUnauthorized)
		}
		fmt.Println(r.Header.Get("webhook-id"), genuine, string(body))
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:9000", nil))
}
