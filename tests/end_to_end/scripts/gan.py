"""A GAN: two models, two optimizers, each frozen in turn, and an EMA of the generator."""

import copy

import torch
from torch import nn

G = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
D = nn.Sequential(
    nn.Linear(4, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)
)
ema = copy.deepcopy(G)
opt_d = torch.optim.Adam(D.parameters(), lr=2e-4, betas=(0.5, 0.999))
opt_g = torch.optim.Adam(G.parameters(), lr=2e-4, betas=(0.5, 0.999))
bce = nn.BCEWithLogitsLoss()


def set_requires_grad(net, flag):
    for p in net.parameters():
        p.requires_grad = flag


for step in range(20):
    set_requires_grad(D, True)
    fake = G(torch.randn(16, 8))
    opt_d.zero_grad()
    loss_d = bce(D(torch.randn(16, 4)), torch.ones(16, 1)) + bce(
        D(fake.detach()), torch.zeros(16, 1)
    )
    loss_d.backward()
    opt_d.step()

    set_requires_grad(D, False)
    opt_g.zero_grad()
    bce(D(fake), torch.ones(16, 1)).backward()
    opt_g.step()
    with torch.no_grad():
        for average, p in zip(ema.parameters(), G.parameters()):
            average.lerp_(p, 0.01)
print("finished")
