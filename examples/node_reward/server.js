// A reward in plain Node: `RewardService.Score`, and nothing else of the contract.
//
//     node server.js FOLDER_OF_PROTOS HOST:PORT
"use strict";

const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const NAME = "letters";
const MIB = 1 << 20;

const [protos, address] = process.argv.slice(2);
const definition = loader.loadSync("penstock/reward/v1/reward.proto", { includeDirs: [protos], keepCase: true, defaults: true });
const { RewardService } = grpc.loadPackageDefinition(definition).penstock.reward.v1;

// The share of the answer's characters that stand in their place.
function score(item) {
  const { answer } = JSON.parse(item.row_json || "{}");
  if (typeof answer !== "string" || answer === "") throw new Error("the row has no `answer`");
  const want = [...answer], got = [...item.completion];
  return want.filter((letter, place) => got[place] === letter).length / Math.max(want.length, got.length);
}

// What cannot be scored is invalid, with the reason; it is never a score of 0, and spoils no other item.
function result(item) {
  try {
    return { id: item.id, score: { value: score(item) } };
  } catch (error) {
    return { id: item.id, invalid: { reason: error.message } };
  }
}

function Score({ request: { reward, items } }, callback) {
  if (reward !== "" && reward !== NAME) {
    callback({ code: grpc.status.NOT_FOUND, details: `no reward ${JSON.stringify(reward)} here; known: ${NAME}` });
  } else if (items.length === 0) {
    callback({ code: grpc.status.INVALID_ARGUMENT, details: "items: at least one is needed" });
  } else {
    callback(null, { results: items.map(result) });
  }
}

const server = new grpc.Server({ "grpc.max_receive_message_length": 32 * MIB });
server.addService(RewardService.service, { Score });
server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(`${NAME} on port ${port}`);
});
process.on("SIGTERM", () => server.tryShutdown(() => process.exit(0)));
