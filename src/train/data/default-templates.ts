/** Chat templates for models that bring none. */

/**
 * ChatML, with tools in the manner of Hermes: each message between `<|im_start|>ROLE` and `<|im_end|>`. The
 * tokenizer needs both as special tokens.
 */
export const chatMlTemplate = `{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{% endif %}
{{- 'Tools that may be called, as JSON:\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{% endfor %}
{{- '\\n</tools>\\nCall one by {"name": NAME, "arguments": {...}} between <tool_call> and </tool_call>.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if not (tools and loop.first and message.role == 'system') %}
{{- '<|im_start|>' + message.role + '\\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '\\n' if message.content or not loop.first else '' }}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments if call.function.arguments is string else (call.function.arguments | tojson) }}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}`

export const chatMlTokens = ['<|im_start|>', '<|im_end|>'] as const

/** Roles in words, for tokenizers without tokens for messages; the ending token closes an answer. */
export const plainTemplate = `{%- for message in messages %}
{{- (message.role | capitalize) + ': ' + message.content }}
{{- eos_token if message.role == 'assistant' else '' }}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'Assistant:' }}{% endif %}`
