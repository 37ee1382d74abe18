// Publishes an event to Tidings over TLS and watches its delivery. ../README.md says how to build and run it.
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <thread>
#include <grpcpp/grpcpp.h>
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tidings.h"
namespace v1 = tidings::v1;
// Finds the detail of this kind in an error.
template <class Kind> bool detail(const grpc::Status& error, Kind* kind) {
  google::rpc::Status status;
  status.ParseFromString(error.error_details());
  for (const auto& packed : status.details()) if (packed.UnpackTo(kind)) return true;
  return false;
}
// Publishes. Repeats the call, which its event_id makes safe, when the server says how long to wait.
grpc::Status publish(v1::EventService::Stub& events, const v1::PublishEventRequest& request, v1::PublishEventResponse* response) {
  for (int attempt = 1;; attempt++) {
    grpc::ClientContext context;
    context.set_deadline(deadline());
    grpc::Status status = events.PublishEvent(&context, request, response);
    google::rpc::RetryInfo wait;
    if (status.ok() || attempt == 5 || !detail(status, &wait)) return status;
    std::this_thread::sleep_for(std::chrono::seconds(wait.retry_delay().seconds()) + std::chrono::nanoseconds(wait.retry_delay().nanos()));
  }
}
void check(const grpc::Status& status) {
  if (!status.ok()) { std::cerr << status.error_code() << " " << status.error_message() << "\n"; std::exit(1); }
}
int main() {
  std::ifstream file(std::getenv("TIDINGS_CA"));
  grpc::SslCredentialsOptions tls{std::string(std::istreambuf_iterator<char>(file), {})};
  auto credentials = grpc::CompositeChannelCredentials(grpc::SslCredentials(tls), grpc::AccessTokenCredentials(std::getenv("TIDINGS_TOKEN")));
  auto channel = grpc::CreateChannel(std::getenv("TIDINGS_ADDRESS"), credentials);
  grpc::ClientContext creating, watching;
  for (auto* context : {&creating, &watching}) context->set_deadline(deadline());
  v1::CreateSubscriptionResponse created;
  auto status = v1::SubscriptionService::NewStub(channel)->CreateSubscription(&creating, subscription(std::getenv("WEBHOOK_URL")), &created);
  if (status.error_code() != grpc::ALREADY_EXISTS) check(status);
  v1::WatchDeliveriesRequest watch;
  watch.set_parent(std::string(PARENT) + "/subscriptions/example-cpp");
  auto deliveries = v1::DeliveryService::NewStub(channel);
  auto changes = deliveries->WatchDeliveries(&watching, watch);
  changes->WaitForInitialMetadata();  // From now on no change is missed.
  std::cout << "watch begun\n";
  auto events = v1::EventService::NewStub(channel);
  auto request = publish_request(42, "cpp-" + std::to_string(std::chrono::system_clock::now().time_since_epoch().count()));
  v1::PublishEventResponse response;
  for (int i = 0; i < 2; i++) { check(publish(*events, request, &response)); std::cout << "published, duplicate: " << std::boolalpha << response.result().duplicate() << "\n"; }
  google::rpc::BadRequest bad;
  if (v1::PublishEventResponse none; detail(publish(*events, publish_request(0, ""), &none), &bad))
    for (const auto& violation : bad.field_violations()) std::cout << "refused: " << violation.field() << " " << violation.description() << "\n";
  v1::WatchDeliveriesResponse change;
  while (changes->Read(&change) && !(change.delivery().event() == response.result().event() && change.delivery().state() == v1::Delivery::STATE_SUCCEEDED)) {}
  watching.TryCancel();
  std::cout << (change.delivery().state() == v1::Delivery::STATE_SUCCEEDED ? "delivered\n" : "the watch ended\n");
}
