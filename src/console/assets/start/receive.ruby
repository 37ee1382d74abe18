# gem install rack rackup webrick; rackup --port 9000
require "openssl"
require "rack"

SECRET = ENV.fetch("TIDINGS_SIGNING_SECRET")

run lambda { |env|
  body = env["rack.input"].read
  signed = "#{env["HTTP_X_CHATWOOT_TIMESTAMP"]}.#{body}"
  expected = "sha256=" + OpenSSL::HMAC.hexdigest("SHA256", SECRET, signed)
  genuine = Rack::Utils.secure_compare(expected, env["HTTP_X_CHATWOOT_SIGNATURE"].to_s)
  puts [env["HTTP_WEBHOOK_ID"], genuine, body].join(" ")
  [genuine ? 204 : 401, {}, []]
}
