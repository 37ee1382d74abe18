// Publishes an event to Tidings over TLS and watches its delivery. ../README.md says how to build and run it.
package main

import (
	"context"
	"log"
	"os"
	"time"

	tidingsv1 "github.com/tidings-gateway/tidings/gen/go/tidings/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const parent, subscription = "accounts/1", "accounts/1/subscriptions/example-go"

// publish repeats the call, which its EventId makes safe, when the server says how long to wait.
func publish(ctx context.Context, events tidingsv1.EventServiceClient, id string, event *tidingsv1.Event) (bool, error) {
	for attempt := 1; ; attempt++ {
		response, err := events.PublishEvent(ctx, &tidingsv1.PublishEventRequest{Parent: parent, EventId: id, Event: event})
		var wait *errdetails.RetryInfo
		for _, detail := range status.Convert(err).Details() {
			if found, ok := detail.(*errdetails.RetryInfo); ok {
				wait = found
			}
		}
		if wait == nil || attempt == 5 {
			return response.GetResult().GetDuplicate(), err
		}
		time.Sleep(wait.GetRetryDelay().AsDuration())
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	tls, err := credentials.NewClientTLSFromFile(os.Getenv("TIDINGS_CA"), "")
	check(err)
	// grpc.NewClient since grpc-go 1.63; Debian 12 has 1.33.
	connection, err := grpc.Dial(os.Getenv("TIDINGS_ADDRESS"), grpc.WithTransportCredentials(tls))
	check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+os.Getenv("TIDINGS_TOKEN"))
	run(ctx, connection)
}
