"""A character-level LSTM on real text, in one process or on many ranks: the same file.

    python examples/char_lm.py
    distgrad run -n 2 examples/char_lm.py
    distgrad run -n 4 examples/char_lm.py --text book.txt --hidden 256 --steps 2000 --save book.safetensors
    distgrad run -n 4 examples/char_lm.py --checkpoint runs/book    # the same again goes on where it was stopped
    distgrad run -n 2 examples/char_lm.py --device cuda             # each rank on the GPU of its number on its node

The text is the source of Python's standard library unless --text names files. The ranks share each batch, so
that the same --batch and --seed give the same losses on any number of ranks.
"""

import argparse
import json
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np
from _report import Progress, fail, look_for, mean, plot, positive, prepare, together

import distgrad as dg
from distgrad import checkpoint, nn, optim
from distgrad.data import DataLoader, DistributedSampler, TensorDataset
from distgrad.distributed import DataParallel, stop_on_signals, world

UNKNOWN = "\ufffd"  # stands for every character that is not among the most frequent ones


class CharLM(nn.Module):
    """Scores of the next character at every position."""

    def __init__(self, characters, hidden, layers):
        super().__init__()
        self.embedding = nn.Embedding(characters, hidden)
        self.lstm = nn.LSTM(hidden, hidden, layers, batch_first=True)
        self.scores = nn.Linear(hidden, characters)

    def forward(self, x, state=None):  # x: (batch, time)
        y, state = self.lstm(self.embedding(x), state)
        return self.scores(y), state


def arguments(comm):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: fail(comm, message)
    parser.add_argument("--text", nargs="+", metavar="FILE", help="UTF-8 files to learn (default: Python's library)")
    parser.add_argument("--errors", choices=("strict", "replace"), default="strict", help="bytes that are not UTF-8")
    for name, kind, default, what in (
            ("steps", int, 1000, "updates"), ("batch", int, 32, "sequences a step, on all ranks together"),
            ("seq-len", int, 64, "characters a sequence"), ("hidden", int, 128, "width of the LSTM"),
            ("layers", int, 1, "LSTM layers"), ("lr", float, 4e-3, "Adam's step size"),
            ("clip", float, 1.0, "largest gradient norm"), ("every", int, 50, "steps between two lines in a log"),
            ("save-every", int, 100, "steps between two checkpoints"), ("temperature", float, 0.7, "of the sample")):
        parser.add_argument(f"--{name}", type=positive(kind), default=default, help=f"{what} (default: {default})")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and sample (default: 0)")
    parser.add_argument("--device", default="cpu", help="where to compute, such as cuda (default: cpu)")
    parser.add_argument("--load", type=Path, metavar="PATH", help="begin with the weights of this file")
    parser.add_argument("--save", type=Path, metavar="PATH", help="write the weights, as safetensors")
    parser.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="keep the state of training here")
    parser.add_argument("--resume", choices=("auto", "never"), default="auto", help="from the newest (default: auto)")
    parser.add_argument("--losses", type=Path, metavar="PATH", help="write the mean loss of each step, as JSON lines")
    parser.add_argument("--plot", type=Path, default=Path("runs/char_lm.png"), help="(default: runs/char_lm.png)")
    args = parser.parse_args()
    if args.batch % comm.size:
        fail(comm, f"--batch {args.batch} cannot be divided among {comm.size} ranks")
    look_for(comm, args.device)
    return args


def read_text(args):
    """The text as UTF-8 bytes."""
    files = [Path(name) for name in args.text or ()]
    if not files:  # sorted, so that the text is the same wherever the library is
        library = Path(sysconfig.get_path("stdlib"))
        files = [file for file in sorted(library.glob("*.py")) if file.name[0] != "_"]
    if not files:
        raise ValueError(f"found no Python library in {library}; name a text with --text")
    parts = []
    for file in files:
        try:
            parts.append(file.read_bytes().decode(errors=args.errors))
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start} "
                             "(--errors replace reads it nevertheless)") from None
    return "\n".join(parts).encode()


def windows(ids, length):
    """Sequences and, one character later, their targets: two tensors (rows, length)."""
    rows = max(len(ids) - 1, 0) // length
    return [dg.from_numpy(ids[shift:shift + rows * length].reshape(rows, length)) for shift in (0, 1)]


def endless(loader, order):
    """Batch after batch, each pass in another order; the first one is what is left of a loaded state's pass."""
    while True:
        yield from loader
        order.set_epoch(order.epoch + 1)


def loss_of(model, x, y, device):
    x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
    scores, _ = model(x)
    return nn.functional.cross_entropy(scores.flatten(0, 1), y.flatten())


@dg.no_grad()
def evaluate(comm, model, x, y, batch, device):
    """Mean loss over all windows; each rank takes its part of them."""
    model.eval()
    mine = TensorDataset(x[comm.rank::comm.size], y[comm.rank::comm.size])
    losses = [(loss_of(model, a, b, device).item(), len(a)) for a, b in DataLoader(mine, batch)]
    model.train()
    rows = sum(n for _, n in losses)
    return mean(comm, sum(loss * n for loss, n in losses) / max(rows, 1), rows)


@dg.no_grad()
def sample(model, characters, length, temperature, seed, device):
    """New text, one character after the other."""
    generator, text, state = dg.Generator(seed), "", None
    index = max(characters.find("\n"), 0)
    for _ in range(length):
        scores, state = model(dg.tensor([[index]], device=device), state)
        index = dg.multinomial((scores[0, 0] / temperature).softmax(0), 1, generator=generator).item()
        text += characters[index]
    return text


def main():
    comm = world()
    args = arguments(comm)
    chief = comm.rank == 0
    together(comm, lambda: prepare(args.save, args.losses, args.plot) if chief else None)
    text = together(comm, lambda: read_text(args) if chief else b"")
    text = comm.broadcast_bytes(text).decode()  # rank 0's text, so that the others need no files
    kept = together(comm, lambda: checkpoint.load_metadata(args.load) if args.load else {})
    characters = kept.get("characters") or \
        "".join(sorted(c for c, _ in Counter(text).most_common(127) if c != UNKNOWN)) + UNKNOWN
    table = np.full(sys.maxunicode + 1, len(characters) - 1)
    table[[ord(c) for c in characters]] = range(len(characters))
    ids = table[np.frombuffer(text.encode("utf-32-le"), "<u4")]
    cut = len(ids) * 9 // 10
    train, held = windows(ids[:cut], args.seq_len), windows(ids[cut:][:256 * args.seq_len + 1], args.seq_len)
    if len(train[0]) < args.batch or not len(held[0]):
        need = max(args.batch, 10) * args.seq_len * 10 // 9 + 20
        fail(comm, f"the text has {len(ids)} characters; --batch {args.batch} and --seq-len {args.seq_len} need {need}")

    dg.manual_seed(args.seed)
    model = CharLM(len(characters), args.hidden, args.layers).to(args.device)
    if args.load:
        together(comm, lambda: checkpoint.load_weights(args.load, model))
    model = DataParallel(model)
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    data = TensorDataset(*train)
    order = DistributedSampler(data, comm.size, comm.rank, seed=args.seed, drop_last=True)
    loader = DataLoader(data, args.batch // comm.size, sampler=order, drop_last=True,
                        pin_memory=args.device.startswith("cuda"))
    if chief:
        print(f"{len(ids):,} characters, {len(characters)} different; {sum(p.numel() for p in model.parameters()):,} "
              f"parameters; {comm.size} rank(s) x {args.batch // comm.size} sequences of {args.seq_len}", flush=True)
        progress = Progress(args.steps, args.every, args.batch * args.seq_len, "tokens")
    state, begin, losses, saves = {"model": model, "optimizer": optimizer, "data": loader}, 0, [], None
    if args.checkpoint:
        stop_on_signals()
        saves = together(comm, lambda: checkpoint.Checkpointer(args.checkpoint, on_error="warn"))
        if found := together(comm, lambda: saves.resume(state, args.resume)):
            begin, losses = found.step, found.extra["losses"].tolist()
    for step, (x, y) in zip(range(begin + 1, args.steps + 1), endless(loader, order)):
        loss = loss_of(model, x, y, args.device)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        optimizer.step()
        losses.append(mean(comm, loss.item()))
        if chief:
            progress.show(step, losses[-1])
        if saves and (model.stop_requested or step % args.save_every == 0 or step == args.steps):
            saves.save(step, state, {"losses": np.array(losses)}, asynchronous=True)
            if model.stop_requested and saves.wait():
                return saves.close()
    validation = evaluate(comm, model, *held, max(args.batch // comm.size, 1), args.device)
    if args.save:
        together(comm, lambda: checkpoint.save_weights(model, args.save, {"characters": characters}))
    if chief:
        if args.losses:
            args.losses.write_text("".join(json.dumps({"step": n, "loss": loss}) + "\n"
                                           for n, loss in enumerate(losses, 1)))
        print(f"validation loss: {validation:.4f} nats per character")
        print("a sample:\n" + sample(model.module, characters, 300, args.temperature, args.seed, args.device))
        plot(args.plot, losses, "nats per character", validation)


if __name__ == "__main__":
    main()
