// The requests of the example.
#pragma once
#include <chrono>
#include <ctime>
#include <string>
#include "tidings/v1/delivery_service.grpc.pb.h"
#include "tidings/v1/event_service.grpc.pb.h"
#include "tidings/v1/subscription_service.grpc.pb.h"

constexpr char PARENT[] = "accounts/1";

// Of each call.
inline std::chrono::system_clock::time_point deadline() { return std::chrono::system_clock::now() + std::chrono::seconds(30); }

inline tidings::v1::CreateSubscriptionRequest subscription(const char* url) {
  tidings::v1::CreateSubscriptionRequest request;
  request.set_parent(PARENT);
  request.set_subscription_id("example-cpp");
  request.mutable_subscription()->set_url(url);
  request.mutable_subscription()->add_event_types(tidings::v1::EVENT_TYPE_MESSAGE_CREATED);
  return request;
}

inline tidings::v1::PublishEventRequest publish_request(long id, const std::string& event_id) {
  tidings::v1::PublishEventRequest request;
  request.set_parent(PARENT);
  request.set_event_id(event_id);
  auto* message = request.mutable_event()->mutable_message_created()->mutable_message();
  message->set_id(id);
  message->set_content("Hello");
  message->set_message_type(tidings::v1::MESSAGE_TYPE_INCOMING);
  message->mutable_created_at()->set_seconds(std::time(nullptr));
  message->mutable_sender()->mutable_contact()->set_id(7);
  message->mutable_conversation()->set_id(3);
  message->mutable_conversation()->set_inbox_id(1);
  message->mutable_conversation()->set_account_id(1);
  message->mutable_conversation()->set_status("open");
  message->mutable_account()->set_id(1);
  return request;
}
