"""LoRA fine-tuning of a model of the size of Llama 7B with the Trainer."""

import tempfile

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, Trainer, TrainingArguments

config = LlamaConfig()  # 32 layers, 4,096 wide
model = AutoModelForCausalLM.from_config(config)
lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
model = get_peft_model(model, lora)
model.print_trainable_parameters()

tokens = torch.randint(0, config.vocab_size, (16, 512))
data = [{"input_ids": row, "labels": row, "attention_mask": torch.ones_like(row)} for row in tokens]
arguments = TrainingArguments(
    output_dir=tempfile.mkdtemp(),
    per_device_train_batch_size=2,
    max_steps=2,
    learning_rate=2e-4,
    gradient_checkpointing=True,
    report_to=[],
)
Trainer(model=model, args=arguments, train_dataset=data).train()
