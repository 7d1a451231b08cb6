"""A reporting agent of AutoGen: a model decides which tools to call, the tools
talk to the database with ordinary drivers. The model's answers are replayed; the
agent is one of a team, whose messages go through AutoGen's runtime."""
import asyncio
import json
import logging
import os

import psycopg
import sqlalchemy
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import FunctionCall
from autogen_core.models import CreateResult, RequestUsage
from autogen_ext.models.replay import ReplayChatCompletionClient

DSN = os.environ["DSN"]
URL = os.environ["URL"]
logging.getLogger("autogen_core").setLevel(logging.ERROR)  # the replayed model's client warns that it counts no tokens of tools


async def customers(limit: int) -> str:
    """The first customers, with how to reach them."""
    with psycopg.connect(DSN) as connection:
        rows = connection.execute("SELECT id, name, email, ssn FROM customers ORDER BY id LIMIT %s", (limit,)).fetchall()
    return json.dumps(rows)


async def totals() -> str:
    """How much was sold in all."""
    engine = sqlalchemy.create_engine(URL)
    with engine.connect() as connection:
        row = connection.execute(sqlalchemy.text("SELECT current_user, count(*) FROM orders GROUP BY 1")).one()
    return json.dumps([row[0], row[1]])


async def clean_up() -> str:
    """Drops what the report does not need."""
    with psycopg.connect(DSN) as connection:
        connection.execute("DROP TABLE orders")  # what it raises, the agent gets as the tool's error
    return "dropped"


def call(name: str, **arguments: object) -> CreateResult:
    """One answer of the model that calls one tool."""
    return CreateResult(
        finish_reason="function_calls",
        content=[FunctionCall(id=name, name=name, arguments=json.dumps(arguments))],
        usage=RequestUsage(prompt_tokens=0, completion_tokens=0),
        cached=False,
    )


async def main() -> None:
    model = ReplayChatCompletionClient(
        [call("customers", limit=2), call("totals"), call("clean_up"), "The report is done."],
        model_info={
            "vision": False, "function_calling": True, "json_output": False,
            "structured_output": False, "family": "unknown",
        },
    )
    agent = AssistantAgent("reporter", model_client=model, tools=[customers, totals, clean_up], max_tool_iterations=5)
    team = RoundRobinGroupChat([agent], max_turns=1)  # which runs its agents on AutoGen's runtime
    result = await team.run(task="Report on our customers.")
    for message in result.messages:
        print(f"{type(message).__name__} {message.source}: {message.to_text()}", flush=True)


asyncio.run(main())
