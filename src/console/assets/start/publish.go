// buf generate, or protoc with protoc-gen-go and protoc-gen-go-grpc, makes the package tidingsv1 of proto/.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	tidingsv1 "example.com/you/tidings/v1"
)

func main() {
	conn, err := grpc.NewClient("{{address}}", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	message := &tidingsv1.Message{
		Id: 1, Content: proto.String("Hi"),
		MessageType: tidingsv1.MessageType_MESSAGE_TYPE_INCOMING, CreatedAt: timestamppb.Now(),
		Sender:       &tidingsv1.Sender{Kind: &tidingsv1.Sender_Contact{Contact: &tidingsv1.Contact{Id: 1, Name: "Ann"}}},
		Conversation: &tidingsv1.Conversation{Id: 1, InboxId: 1, Status: "open"},
		Account:      &tidingsv1.Account{Id: {{account}}, Name: "Shop"},
	}
	event := &tidingsv1.Event{Payload: &tidingsv1.Event_MessageCreated{
		MessageCreated: &tidingsv1.MessageCreated{Message: message},
	}}
	ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+os.Getenv("TIDINGS_TOKEN"))
	response, err := tidingsv1.NewEventServiceClient(conn).PublishEvent(ctx, &tidingsv1.PublishEventRequest{
		Parent:  "accounts/{{account}}",
		EventId: "message-1-created", // makes the call safe to repeat
		Event:   event,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(response.Result.Event, response.Result.DeliveryCount)
}
