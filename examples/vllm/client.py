"""Asks a vLLM server with LeanKV twice: in its default way of compressing, and in one that the request names.

python examples/vllm/client.py [URL]
"""

import sys

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000/v1", api_key="none")
for way in (None, "K8V4"):
    answer = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "What is a page table?"}],
        temperature=0,
        max_tokens=40,
        extra_body={"vllm_xargs": {"leankv": way}} if way else {},
    )
    print(f"{way or 'the default'}: {answer.choices[0].message.content}")
