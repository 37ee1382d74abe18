package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	tidingsv1 "github.com/tidings-gateway/tidings/gen/go/tidings/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func message(id int64) *tidingsv1.Event {
	return &tidingsv1.Event{Payload: &tidingsv1.Event_MessageCreated{MessageCreated: &tidingsv1.MessageCreated{Message: &tidingsv1.Message{
		Id: id, Content: proto.String("Hello"), MessageType: tidingsv1.MessageType_MESSAGE_TYPE_INCOMING, CreatedAt: timestamppb.Now(),
		Sender:       &tidingsv1.Sender{Kind: &tidingsv1.Sender_Contact{Contact: &tidingsv1.Contact{Id: 7, Name: "Ann"}}},
		Conversation: &tidingsv1.Conversation{Id: 3, InboxId: 1, AccountId: 1, Status: "open"}, Account: &tidingsv1.Account{Id: 1},
	}}}}
}

func run(ctx context.Context, connection *grpc.ClientConn) {
	_, err := tidingsv1.NewSubscriptionServiceClient(connection).CreateSubscription(ctx, &tidingsv1.CreateSubscriptionRequest{
		Parent: parent, SubscriptionId: "example-go", Subscription: &tidingsv1.Subscription{
			Url: os.Getenv("WEBHOOK_URL"), EventTypes: []tidingsv1.EventType{tidingsv1.EventType_EVENT_TYPE_MESSAGE_CREATED}}})
	if status.Code(err) != codes.AlreadyExists {
		check(err)
	}
	watch, err := tidingsv1.NewDeliveryServiceClient(connection).WatchDeliveries(ctx, &tidingsv1.WatchDeliveriesRequest{Parent: subscription})
	check(err)
	_, err = watch.Header() // Waits for the headers: from now on no change is missed.
	check(err)
	fmt.Println("watch begun")
	events, id, event := tidingsv1.NewEventServiceClient(connection), fmt.Sprintf("go-%d", time.Now().UnixNano()), message(42)
	for i := 0; i < 2; i++ {
		duplicate, err := publish(ctx, events, id, event)
		check(err)
		fmt.Println("published, duplicate:", duplicate)
	}
	_, err = publish(ctx, events, "", message(0))
	for _, detail := range status.Convert(err).Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok {
			for _, violation := range bad.FieldViolations {
				fmt.Println("refused:", violation.Field, violation.Description)
			}
		}
	}
	for {
		change, err := watch.Recv()
		check(err)
		if d := change.Delivery; strings.HasSuffix(d.Name, "/"+id) && d.State == tidingsv1.Delivery_STATE_SUCCEEDED {
			fmt.Println("delivered")
			return
		}
	}
}
