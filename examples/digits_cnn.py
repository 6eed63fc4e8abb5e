"""A convolutional network reads handwritten digits, in one process or on several ranks: the same file.

    python examples/digits_cnn.py
    distgrad run -n 2 examples/digits_cnn.py --epochs 30
    python examples/digits_cnn.py --device cuda

The data are scikit-learn's: 1,797 pictures of 8 x 8 pixels, of which a fifth is kept for the test.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from _report import Progress, fail, look_for, mean, plot, positive, prepare, together

import distgrad as dg
from distgrad import checkpoint, nn, optim
from distgrad.data import DataLoader, DistributedSampler, TensorDataset
from distgrad.distributed import DataParallel, world


def network(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),  # (batch, 2 * width, 4, 4)
        nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(2 * width * 16, 64), nn.ReLU(),
        nn.Linear(64, 10))


def arguments(comm):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: fail(comm, message)
    for name, kind, default, what in (
            ("epochs", int, 15, "passes over the training pictures"), ("batch", int, 64, "pictures a step, all ranks"),
            ("width", int, 16, "channels of the first convolution"), ("lr", float, 2e-3, "Adam's step size"),
            ("every", int, 22, "steps between two lines in a log")):
        parser.add_argument(f"--{name}", type=positive(kind), default=default, help=f"{what} (default: {default})")
    parser.add_argument("--steps", type=positive(int), help="end after so many steps")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and dropout (default: 0)")
    parser.add_argument("--device", default="cpu", help="where to compute, such as cuda (default: cpu)")
    parser.add_argument("--save", type=Path, metavar="PATH", help="write the weights, as safetensors")
    parser.add_argument("--plot", type=Path, default=Path("runs/digits_cnn.png"), help="(default: runs/digits_cnn.png)")
    args = parser.parse_args()
    if args.batch % comm.size:
        fail(comm, f"--batch {args.batch} cannot be divided among {comm.size} ranks")
    look_for(comm, args.device)
    return args


def pictures(device):
    """(pictures, labels) for training and for the test, all of them on the device; the same on every rank."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError('the pictures come from scikit-learn: pip install "distgrad[examples]"') from None
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x = dg.tensor((x[order] / 16).reshape(-1, 1, 8, 8), dtype=dg.float32, device=device)
    y = dg.tensor(y[order], dtype=dg.int64, device=device)
    cut = len(order) // 5
    return (x[cut:], y[cut:]), (x[:cut], y[:cut])


@dg.no_grad()
def accuracy(comm, model, x, y):
    """The share of pictures read correctly; each rank reads its part of them."""
    model.eval()
    x, y = x[comm.rank::comm.size], y[comm.rank::comm.size]
    right = (model(x).argmax(1) == y).sum().item() if len(x) else 0
    model.train()
    return mean(comm, right / max(len(x), 1), len(x))


def main():
    comm = world()
    args = arguments(comm)
    together(comm, lambda: prepare(args.save, args.plot) if comm.rank == 0 else None)
    train, test = together(comm, lambda: pictures(args.device))
    dg.manual_seed(args.seed)
    model = DataParallel(network(args.width).to(args.device))
    dg.manual_seed(args.seed + comm.rank)  # every rank drops other activations
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    data = TensorDataset(*train)
    order = DistributedSampler(data, comm.size, comm.rank, seed=args.seed, drop_last=True)
    loader = DataLoader(data, args.batch // comm.size, sampler=order, drop_last=True)
    steps = min(args.steps or sys.maxsize, args.epochs * len(loader))
    if not steps:
        fail(comm, f"--batch {args.batch} is more than the {len(data)} training pictures")
    progress = Progress(steps, args.every, args.batch, "pictures") if comm.rank == 0 else None
    losses = []
    for epoch in range(args.epochs):
        order.set_epoch(epoch)
        for x, y in loader:
            if len(losses) == steps:
                break
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(mean(comm, loss.item()))
            if progress:
                progress.show(len(losses), losses[-1])
    score = accuracy(comm, model, *test)
    if args.save:
        together(comm, lambda: checkpoint.save_weights(model, args.save))
    if comm.rank == 0:
        print(f"test accuracy: {score:.2%} of {len(test[0])} pictures")
        plot(args.plot, losses, "cross-entropy, nats")


if __name__ == "__main__":
    main()
